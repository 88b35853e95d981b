# Boots systemd as process 1 of a host that is a set of namespaces: its own disk is this machine's, but for what follows.
# It gets the shipped units as docs/distributed.md says, no other unit of this machine, and a file for each one's log.
set -e
root=$1 python=$2 packages=$3 disk=$4
shift 4
mount --make-rprivate /
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc && hostname >/run/etc/hostname
mount --bind /run/etc /etc
rm -rf /etc/systemd/system && mkdir -p /etc/systemd/system
mount -t tmpfs tmpfs /opt
mkdir -p /opt/python /opt/reverb-dqn/.venv/bin /opt/reverb-dqn/.venv/lib
for part in agents configs pipeline; do
  mkdir "/opt/reverb-dqn/$part" && mount --bind "$root/$part" "/opt/reverb-dqn/$part"
done
mount --bind "$python" /opt/python
mount --bind "$packages" /opt/reverb-dqn/.venv/lib
echo "home = /opt/python/bin" >/opt/reverb-dqn/.venv/pyvenv.cfg
ln -s /opt/python/bin/python3 /opt/reverb-dqn/.venv/bin/python
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/reverb-dqn
mount --bind "$disk" /var/lib/reverb-dqn
useradd --system --home-dir=/var/lib/reverb-dqn reverb-dqn
cp -r "$disk/etc" /etc/reverb-dqn
chown -R reverb-dqn /etc/reverb-dqn
cp -r "$root"/docs/recipes/reverb-dqn*.service /etc/systemd/system/
for unit in reverb-dqn@ reverb-dqn-proxy; do
  mkdir "/etc/systemd/system/$unit.service.d"
  printf '[Service]\nStandardOutput=append:/var/lib/reverb-dqn/%%n.log\nStandardError=inherit\n' \
    >"/etc/systemd/system/$unit.service.d/log.conf"
done
for target in sysinit basic shutdown network-online multi-user; do
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" >"/etc/systemd/system/$target.target"
done
mkdir /etc/systemd/system/multi-user.target.wants
for unit; do
  ln -s "/etc/systemd/system/$(echo "$unit" | sed 's/@.*service/@.service/')" \
    "/etc/systemd/system/multi-user.target.wants/$unit"
done
export container=reverb-dqn SYSTEMD_UNIT_PATH=/etc/systemd/system
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=null --show-status=no
