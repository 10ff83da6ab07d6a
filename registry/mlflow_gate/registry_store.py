# mypy: disallow-untyped-calls=False
"""MLflow's model registry, guarded: aliases, tags, sources and deletion under our rules.

Rules
-----
1. Aliases are `dev-…`; `clinical-pilot` can be read and is neither set, moved nor removed.
2. A version is made from a model that was logged here, which is sealed first: its files can't
   change between the registration and the assessment, nor ever after.
3. A logged model is one version of a registered model, however often it is registered: a client
   whose answer got lost asks again, and must not make a second version of it.
4. Models and versions keep their names and stages; a version that was submitted stays.
5. Everything is inside the caller's workspace; another organisation's model does not exist.
"""

from collections.abc import Iterable
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_NONE
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore

from registry.mlflow_gate.artifacts import Artifacts, Place
from registry.mlflow_gate.guarded import caller_in_own_workspace, only, speaking
from registry.mlflow_gate.naming import (
    check_alias,
    check_model_name,
    check_tag,
    check_version,
    model_id_of,
)
from registry.mlflow_gate.tracking_store import GuardedTrackingStore
from registry.trust.errors import Refused

ALLOWED = frozenset(
    {
        "create_registered_model",
        "update_registered_model",
        "get_registered_model",
        "search_registered_models",
        "get_latest_versions",
        "set_registered_model_tag",
        "delete_registered_model_tag",
        "create_model_version",
        "update_model_version",
        "delete_model_version",
        "get_model_version",
        "get_model_version_download_uri",
        "search_model_versions",
        "set_model_version_tag",
        "delete_model_version_tag",
        "set_registered_model_alias",
        "delete_registered_model_alias",
        "get_model_version_by_alias",
        "list_webhooks_by_event",
    }
)


@only(AbstractStore, ALLOWED)
class GuardedRegistryStore(WorkspaceAwareSqlAlchemyStore):
    """The model registry store of one server."""

    # Who registers many versions of one model at once loses the next number to another each time.
    CREATE_MODEL_VERSION_RETRIES = 25

    def __init__(self, url: str, tracking: GuardedTrackingStore, artifacts: Artifacts) -> None:
        super().__init__(url)
        self._tracking = tracking
        self._artifacts = artifacts
        self.ManagedSessionMaker = speaking(self.ManagedSessionMaker)

    def create_registered_model(
        self,
        name: str,
        tags: Iterable[Any] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> Any:
        """Create a registered model of the caller's organisation."""
        check_model_name(name)
        tags = list(tags or [])
        for tag in tags:
            check_tag(tag.key)
        return super().create_registered_model(name, tags, description)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Iterable[Any] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> Any:
        """Seal the logged model that `source` names and register it as the next version."""
        caller = caller_in_own_workspace()
        check_model_name(name)
        tags = list(tags or [])
        for tag in tags:
            check_tag(tag.key)
        logged = self._tracking.get_logged_model(model_id_of(source))
        if model_id and model_id != logged.model_id:
            raise Refused(
                "model_id and source name two different models", code="source_not_allowed"
            )
        if run_id and run_id != logged.source_run_id:
            raise Refused("this run did not log that model", code="source_not_allowed")
        self.get_registered_model(name)
        place = Place.parse(logged.artifact_location.removeprefix("mlflow-artifacts:/"))
        if (place.workspace, place.holder_id) != (caller.organisation, logged.model_id):
            raise Refused("this model was not logged here", code="source_not_allowed")
        self._artifacts.seal(place.workspace, place.experiment, place.holder_id)
        there = self._version_from(name, source)
        if there is not None:
            return there
        try:
            return super().create_model_version(
                name, source, logged.source_run_id, tags, None, description, None, logged.model_id
            )
        except MlflowException:
            # The first of two requests for the same may have come to its end meanwhile.
            there = self._version_from(name, source)
            if there is None:
                raise
            return there

    def _version_from(self, name: str, source: str) -> Any | None:
        """The version of the caller's registered model that was made from this logged model."""
        with self.ManagedSessionMaker(read_only=True) as session:
            found = (
                session.query(SqlModelVersion)
                .filter(
                    SqlModelVersion.name == name,
                    SqlModelVersion.source == source,
                    SqlModelVersion.current_stage == STAGE_NONE,
                    *self._get_workspace_clauses(SqlModelVersion),
                )
                .one_or_none()
            )
            if found is None:
                return None
            return self._populate_model_version_aliases(session, name, found.to_mlflow_entity())

    def delete_model_version(self, name: str, version: Any) -> None:
        """Take a version out of sight; the database refuses it for one that was submitted."""
        super().delete_model_version(name, check_version(version))

    def set_registered_model_tag(self, name: str, tag: Any) -> Any:
        """Set a tag whose key is not reserved."""
        check_tag(tag.key)
        return super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Remove a tag whose key is not reserved."""
        check_tag(key)
        super().delete_registered_model_tag(name, key)

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> Any:
        """Set a tag whose key is not reserved."""
        check_tag(tag.key)
        return super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        """Remove a tag whose key is not reserved."""
        check_tag(key)
        super().delete_model_version_tag(name, version, key)

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        """Point a `dev-…` alias at a version."""
        check_alias(alias)
        super().set_registered_model_alias(name, alias, check_version(version))

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Remove a `dev-…` alias."""
        check_alias(alias)
        super().delete_registered_model_alias(name, alias)

    def list_webhooks_by_event(
        self, event: Any, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Any]:
        """None: what is registered is announced by the database's outbox."""
        return PagedList([], None)
