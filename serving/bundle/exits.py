"""The exit status of `touchstone verify`: one a kind of failure, so that a script can tell them.

    >>> exit_status("file_changed")
    20

0 is a verified bundle, 1 a mistake in how it was asked, 2 wrong usage. docs/hospitals.md has the
table; a test holds the two together.
"""

from collections.abc import Mapping

EXITS: Mapping[int, tuple[str, tuple[str, ...]]] = {
    10: ("the pinned root is none, or not valid today", ("root_invalid",)),
    11: ("the pinned root is a demo's", ("demo_root",)),
    12: ("somebody signed under another root than the pinned one", ("other_root",)),
    13: ("a signature does not fit, or is of nobody named", ("bad_signature", "tampered")),
    14: (
        "the certificate is damaged",
        ("certificate_malformed", "invalid", "unsafe_name", "layout", "too_many_files",
         "model_missing", "model_layout", "refused"),
    ),
    15: ("fewer than two people signed", ("one_signer",)),
    16: ("a signer belongs to the organisation whose model it is", ("own_model",)),
    17: ("a signer's certificate was not valid when the log took it in", ("leaf_expired",)),
    18: ("a signer's certificate is not for signing certificates",
         ("wrong_usage", "not_a_leaf", "wrong_key")),
    19: ("a signer was not enrolled by two others", ("not_enrolled", "enrolments_malformed")),
    20: ("a file is not the one that was signed over", ("file_changed",)),
    21: ("a file is too many, or has another name", ("file_extra", "name_collision")),
    22: ("a file is missing, or can't be read", ("file_missing", "no_bundle", "unreadable")),
    23: ("a link, or something that is no file", ("link", "not_a_file")),
    24: ("a hidden file", ("hidden_file",)),
    30: ("the certificate has expired", ("certificate_expired",)),
    31: ("the documents of the bundle contradict each other",
         ("model_mismatch", "protocol_mismatch", "report_mismatch")),
    32: ("the verdict does not follow from its own numbers", ("verdict_disagrees",)),
    33: ("the certificate judges by other rules than the protocol", ("rules_mismatch",)),
    34: ("nobody has acknowledged the intended use", ("not_acknowledged",)),
    40: ("the log does not hold this certificate",
         ("not_in_the_log", "log_malformed", "not_a_log", "checkpoint_forged",
          "checkpoint_unsigned", "checkpoint_malformed", "other_log")),
    41: ("the log was rewritten, or shows two faces", ("log_forked",)),
    42: ("the log can't be shown to be the one seen before", ("log_unproven",)),
    43: ("too few witnesses have seen it", ("not_witnessed",)),
    44: ("this machine's clock is behind", ("clock_behind", "clock_set_back", "status_dates")),
    50: ("this machine does not compute what was certified",
         ("golden_mismatch", "golden_malformed")),
    51: ("the golden vectors can't be replayed here",
         ("golden_unavailable", "golden_no_tolerance", "golden_failed", "sandbox_unavailable",
          "sandbox_start", "sandbox_stopped", "device_busy", "unavailable")),
    60: ("no status was fetched yet", ("status_missing",)),
    61: ("the status is damaged, or mixed of several",
         ("status_incomplete", "status_malformed", "status_bad_signature", "status_mixed")),
    62: ("the status is not of two people under the pinned root",
         ("status_other_root", "status_one_signer", "status_one_person", "status_key_twice")),
    63: ("the status went back", ("status_rolled_back",)),
    64: ("the status shows two faces, or lost a stop", ("status_forked", "status_weakened")),
    65: ("the status has ended", ("status_expired",)),
    66: ("the facility suspended the certificate", ("suspended",)),
    67: ("the facility revoked the certificate", ("revoked",)),
    68: ("the status does not list the certificate", ("not_listed",)),
    69: ("what this hospital remembers can't be used",
         ("root_changed", "state_damaged", "state_in_use", "state")),
}  # fmt: skip
"""{exit status: (what it means, the codes that have it)}."""

MISTAKE = 1
_OF: Mapping[str, int] = {code: status for status, (_, codes) in EXITS.items() for code in codes}


def exit_status(code: str) -> int:
    """The exit status of an error's code; 1 for one that is not of a bundle."""
    return _OF.get(code, MISTAKE)
