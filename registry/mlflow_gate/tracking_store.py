# mypy: disallow-untyped-calls=False
"""MLflow's tracking store, guarded: runs and logged models of the caller's organisation.

Rules
-----
1. Artifacts lie where the server says; a client's own `artifact_location` is refused.
2. Nothing is deleted or restored; traces, scorers, gateways, datasets of evaluations and whatever
   a later MLflow adds are not offered.
3. A logged model that a run names (a metric of it, an input, an output) is the caller's own.
4. A client that chose no experiment means experiment 0: its organisation's `Default`.
"""

from collections.abc import Iterable
from typing import Any

from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import SEARCH_MAX_RESULTS_DEFAULT
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from registry.mlflow_gate.guarded import only, speaking
from registry.mlflow_gate.naming import check_tag
from registry.trust.errors import Refused

ALLOWED = frozenset(
    {
        "create_experiment",
        "get_experiment",
        "get_experiment_by_name",
        "search_experiments",
        "set_experiment_tag",
        "create_run",
        "update_run_info",
        "get_run",
        "search_runs",
        "set_tag",
        "delete_tag",
        "log_metric",
        "sanitize_metric_value",
        "log_param",
        "log_batch",
        "log_inputs",
        "log_outputs",
        "record_logged_model",
        "get_metric_history",
        "create_logged_model",
        "finalize_logged_model",
        "get_logged_model",
        "search_logged_models",
        "log_logged_model_params",
        "set_logged_model_tags",
        "set_model_versions_tags",
        "resolve_trace_archival_config",
    }
)
_NO_EXPERIMENT_CHOSEN = "0"


@only(AbstractStore, ALLOWED)
class GuardedTrackingStore(WorkspaceAwareSqlAlchemyStore):
    """The tracking store of one server."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "mlflow-artifacts:/")
        self.ManagedSessionMaker = speaking(self.ManagedSessionMaker)

    def _initialize_store_state(self) -> None:
        # MLflow would create an experiment in its workspace `default`, which is nobody's here.
        self._validate_artifact_root_configuration()

    def _default_experiment(self) -> str:
        found = super().get_experiment_by_name(Experiment.DEFAULT_EXPERIMENT_NAME)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(super().create_experiment(Experiment.DEFAULT_EXPERIMENT_NAME))
        except MlflowException:
            # Another request made it in the meantime.
            found = super().get_experiment_by_name(Experiment.DEFAULT_EXPERIMENT_NAME)
            if found is None:
                raise
            return str(found.experiment_id)

    def _chosen(self, experiment_id: Any) -> str:
        if str(experiment_id) in (_NO_EXPERIMENT_CHOSEN, ""):
            return self._default_experiment()
        return str(experiment_id)

    def create_experiment(
        self,
        name: str,
        artifact_location: str | None = None,
        tags: Iterable[Any] | None = None,
    ) -> Any:
        """Create an experiment whose artifacts lie in the organisation's own place."""
        if artifact_location:
            raise Refused(
                "the registry chooses where artifacts lie; leave artifact_location out",
                code="artifact_location",
            )
        tags = _checked(tags)
        return super().create_experiment(name, None, tags)

    def get_experiment(self, experiment_id: Any) -> Any:
        """The experiment of the caller's organisation."""
        return super().get_experiment(self._chosen(experiment_id))

    def set_experiment_tag(self, experiment_id: Any, tag: Any) -> None:
        """Set a tag whose key is not reserved."""
        _checked([tag])
        super().set_experiment_tag(self._chosen(experiment_id), tag)

    def create_run(
        self, experiment_id: Any, user_id: Any, start_time: Any, tags: Any, run_name: Any
    ) -> Any:
        """Begin a run."""
        return super().create_run(
            self._chosen(experiment_id), user_id, start_time, _checked(tags), run_name
        )

    def search_runs(
        self,
        experiment_ids: Iterable[Any],
        filter_string: str | None,
        run_view_type: Any,
        max_results: int = SEARCH_MAX_RESULTS_DEFAULT,
        order_by: Any = None,
        page_token: str | None = None,
    ) -> Any:
        """Runs of the caller's organisation."""
        chosen = [self._chosen(e) for e in experiment_ids]
        return super().search_runs(
            chosen, filter_string, run_view_type, max_results, order_by, page_token
        )

    def set_tag(self, run_id: str, tag: Any) -> None:
        """Set a tag whose key is not reserved."""
        _checked([tag])
        super().set_tag(run_id, tag)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Remove a tag whose key is not reserved."""
        check_tag(key)
        super().delete_tag(run_id, key)

    def log_metric(self, run_id: str, metric: Any) -> None:
        """Write a metric of a run, and of a logged model that must be the caller's."""
        self._own_models([metric.model_id])
        super().log_metric(run_id, metric)

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        """Say what a run read: data sets, and logged models of the caller's."""
        self._own_models(model.model_id for model in models or [])
        super().log_inputs(run_id, datasets, models)

    def log_outputs(self, run_id: str, models: Any) -> None:
        """Say which logged models of the caller's a run made."""
        self._own_models(model.model_id for model in models)
        super().log_outputs(run_id, models)

    def _own_models(self, model_ids: Iterable[str | None]) -> None:
        # MLflow writes rows about these ids without asking whose they are.
        for model_id in {model_id for model_id in model_ids if model_id}:
            super().get_logged_model(model_id)

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        """Write metrics, parameters and tags of a run."""
        metrics = list(metrics)
        self._own_models(metric.model_id for metric in metrics)
        super().log_batch(run_id, metrics, params, _checked(tags))

    def create_logged_model(
        self,
        experiment_id: Any,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Iterable[Any] | None = None,
        params: Iterable[Any] | None = None,
        model_type: str | None = None,
    ) -> Any:
        """Begin a logged model; a run that it names must be the caller's."""
        if source_run_id:
            self.get_run(source_run_id)
        return super().create_logged_model(
            self._chosen(experiment_id),
            name,
            source_run_id,
            _checked(tags),
            list(params or []),
            model_type,
        )

    def search_logged_models(
        self,
        experiment_ids: Iterable[Any],
        filter_string: str | None = None,
        datasets: Any = None,
        max_results: int | None = None,
        order_by: Any = None,
        page_token: str | None = None,
    ) -> Any:
        """Logged models of the caller's organisation."""
        chosen = [self._chosen(e) for e in experiment_ids]
        return super().search_logged_models(
            chosen, filter_string, datasets, max_results, order_by, page_token
        )

    def set_logged_model_tags(self, model_id: str, tags: Iterable[Any]) -> None:
        """Set tags whose keys are not reserved."""
        super().set_logged_model_tags(model_id, _checked(tags))


def _checked(tags: Iterable[Any] | None) -> list[Any]:
    listed = list(tags or [])
    for tag in listed:
        check_tag(tag.key)
    return listed
