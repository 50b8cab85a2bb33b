"""What a search means: the best runs, the figures, the report. Needs neither Torch nor Ray to load a study."""

from analysis.best import best as best
from analysis.load import Model as Model
from analysis.load import Studies as Studies
from analysis.load import Study as Study
from analysis.load import load_studies as load_studies
from analysis.load import load_study as load_study
