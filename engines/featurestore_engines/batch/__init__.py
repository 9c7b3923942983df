"""The batch engine: ingest, materialize and training sets, with Polars around the core's kernel."""

from featurestore_engines.batch.engine import BatchEngine
from featurestore_engines.batch.ingest import IngestReport
from featurestore_engines.batch.materialize import Filled
from featurestore_engines.batch.questions import Options
from featurestore_engines.batch.training import TrainingSet

__all__ = ["BatchEngine", "Filled", "IngestReport", "Options", "TrainingSet"]
