from pipeline import CombinationSpec as CombinationSpec
from pipeline import Objective as Objective
from pipeline import RunOptions as RunOptions
from pipeline import SearchSpec as SearchSpec
from pipeline import StudySpec as StudySpec
from pipeline import Task as Task
from pipeline import export_study as export_study
from pipeline import load as load
from pipeline import load_spec as load_spec
from pipeline import prepare as prepare
from pipeline import run_study as run_study
from pipeline import save as save

__version__: str
