"""Makes the certificates with which the roles of a run on several hosts know each other.

Example:
  python -m pipeline.certificates --folder=certificates --hosts=learner-host,10.0.0.2
  python -m pipeline.certificates --folder=certificates --renew

Keep the folder to yourself: whoever has its ca.key can make certificates of any role.
"""

import sys
from pathlib import Path

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.security.certificate_authority import Authority

_FOLDER = flags.DEFINE_string("folder", None, "Where the authority and the certificates are kept.")
_HOSTS = flags.DEFINE_list(
    "hosts", [], "Names and addresses under which other hosts reach the replay's; --renew keeps them if there are none."
)
_DAYS = flags.DEFINE_integer("days", 365, "Days for which the roles' certificates are good.", lower_bound=1)
_AUTHORITY_DAYS = flags.DEFINE_integer("authority_days", 3650, "Days for which a new authority is.", lower_bound=1)
_RENEW = flags.DEFINE_bool("renew", False, "Make new keys and certificates of all roles, by the same authority.")

_MOST_DAYS = 36_500
_EXPLANATION = """\
{folder}, good for {days} days:
  ca.pem         whom to trust: copy it to every host
  ca.key         makes certificates: keep it here, or offline
  replay.pem     of the replay's proxy: copy it to the replay's host
  learner.pem    of a learner on another host than the replay
  collector.pem  of collectors: copy it to the hosts that collect
  evaluator.pem  of an evaluator on another host
  metrics.pem    of the proxies that show metrics: copy it to each host
  operator.pem   of whoever reads metrics, such as Prometheus
  inference.pem  of the acting server's proxy: copy it to its host
  learners.pem   of the proxies between several learners: copy it to the host of each
Each .pem but ca.pem holds a private key: copy it over ssh, keep its mode 600. {then}"""


def main(arguments: list[str]) -> int:
    """Makes or renews the certificates and says what each is for."""
    refuse_more(arguments)
    if not _FOLDER.value:
        raise UsageError("--folder is missing: where should the certificates be kept?")
    if max(_DAYS.value, _AUTHORITY_DAYS.value) > _MOST_DAYS:
        raise UsageError(f"--days and --authority_days are {_MOST_DAYS} at most")
    authority = Authority(Path(_FOLDER.value))
    if _RENEW.value:
        authority.renew(_HOSTS.value, _DAYS.value)
        then = "Copy them again, then\nrestart the proxies: the old ones stay good until they end."
    else:
        authority.create(_HOSTS.value, _DAYS.value, _AUTHORITY_DAYS.value)
        then = "Then\nstart `python -m pipeline.proxy` on each host (docs/several_hosts.md)."
    print(_EXPLANATION.format(folder=authority.folder, days=_DAYS.value, then=then))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
