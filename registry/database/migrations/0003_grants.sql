-- Who may do what. The owner migrates and is used for nothing else.

GRANT USAGE ON SCHEMA touchstone TO touchstone_app, touchstone_gate, touchstone_mlflow;

GRANT SELECT ON ALL TABLES IN SCHEMA touchstone TO touchstone_app;
GRANT INSERT ON touchstone.organisation, touchstone.token, touchstone.signer, touchstone.cohort,
    touchstone.protocol, touchstone.submission, touchstone.attempt, touchstone.step,
    touchstone.decision TO touchstone_app;
GRANT UPDATE (last_used_at, revoked_at) ON touchstone.token TO touchstone_app;
GRANT UPDATE (state, model_digest, verdict, report_digest, statement_digest, certifiable,
    failure_code, failure_message, changed_at, deadline) ON touchstone.submission TO touchstone_app;
GRANT UPDATE (returned_at, returned_reason) ON touchstone.attempt TO touchstone_app;

-- The gate alone writes certificates (and, in MLflow's tables, the alias they permit).
GRANT SELECT ON touchstone.submission, touchstone.decision, touchstone.certificate,
    touchstone.signer, touchstone.arrow TO touchstone_gate;
GRANT INSERT ON touchstone.certificate TO touchstone_gate;
GRANT UPDATE (in_force) ON touchstone.certificate TO touchstone_gate;
GRANT SELECT, UPDATE (state, changed_at) ON touchstone.submission TO touchstone_gate;

-- MLflow's triggers ask two questions and write one outbox, each as the function's owner; MLflow's
-- own role reads and writes nothing of ours.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.append_event TO touchstone_app, touchstone_gate;
GRANT EXECUTE ON FUNCTION touchstone.alias_permitted, touchstone.version_is_bound
    TO touchstone_app, touchstone_gate, touchstone_mlflow;
GRANT EXECUTE ON FUNCTION touchstone.event_hash TO touchstone_app;
