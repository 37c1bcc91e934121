"""Files of arrays in the layouts in which Google published ViT and BiT, made from models of timm."""

import numpy as np


def vit_arrays(model, *, stacked=False, prefix=""):
    """The arrays of a vision transformer, one set per block or, as big_vision writes them, ``stacked``."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    mha, mlp, norm = (0, 0, 1) if stacked else (1, 3, 2)
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "pos_embedding" if stacked else "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    if model.cls_token is not None:
        arrays["cls"] = state["cls_token"]
    blocks = []
    for index in range(len(model.blocks)):
        own = {name.removeprefix(f"blocks.{index}."): value for name, value in state.items()}
        block = {f"LayerNorm_{n}/{new}": own[f"norm{m}.{old}"] for n, m in ((0, 1), (norm, 2)) for new, old in NORM}
        qkv, biases = np.split(own["attn.qkv.weight"], 3), np.split(own["attn.qkv.bias"], 3)
        attention = f"MultiHeadDotProductAttention_{mha}"
        for name, weight, bias in zip(("query", "key", "value"), qkv, biases, strict=True):
            block[f"{attention}/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            block[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        block[f"{attention}/out/kernel"] = own["attn.proj.weight"].T.reshape(heads, -1, width)
        block[f"{attention}/out/bias"] = own["attn.proj.bias"]
        for layer in (1, 2):
            block[f"MlpBlock_{mlp}/Dense_{layer - 1}/kernel"] = own[f"mlp.fc{layer}.weight"].T
            block[f"MlpBlock_{mlp}/Dense_{layer - 1}/bias"] = own[f"mlp.fc{layer}.bias"]
        blocks.append(block)
    if stacked:
        arrays |= {f"Transformer/encoderblock/{name}": np.stack([b[name] for b in blocks]) for name in blocks[0]}
    else:
        arrays |= {f"Transformer/encoderblock_{i}/{n}": value for i, b in enumerate(blocks) for n, value in b.items()}
    return {f"{prefix}{name}": value for name, value in arrays.items()}


NORM = (("scale", "weight"), ("bias", "bias"))


def bit_arrays(model):
    """The arrays of a pre-activation ResNet (BiT)."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    arrays = {
        "root_block/standardized_conv2d/kernel": state["stem.conv.weight"].transpose(2, 3, 1, 0),
        "group_norm/gamma": state["norm.weight"],
        "group_norm/beta": state["norm.bias"],
        "head/conv2d/kernel": state["head.fc.weight"].transpose(2, 3, 1, 0),
        "head/conv2d/bias": state["head.fc.bias"],
    }
    for name, value in state.items():
        if name.startswith("stages."):
            _, stage, _, unit, layer, *_, kind = name.split(".")
            where = f"block{int(stage) + 1}/unit{int(unit) + 1:02}"
            if layer == "downsample":
                arrays[f"{where}/a/proj/standardized_conv2d/kernel"] = value.transpose(2, 3, 1, 0)
            elif layer.startswith("conv"):
                letter = "abc"[int(layer[4:]) - 1]
                arrays[f"{where}/{letter}/standardized_conv2d/kernel"] = value.transpose(2, 3, 1, 0)
            else:
                letter = "abc"[int(layer[4:]) - 1]
                arrays[f"{where}/{letter}/group_norm/{'gamma' if kind == 'weight' else 'beta'}"] = value
    return {f"resnet/{name}": value for name, value in arrays.items()}
