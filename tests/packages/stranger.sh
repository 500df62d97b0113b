# What a stranger does on a fresh Debian with nothing but the package: run by tests/packages.rs, in a root of its own.

step() { printf '== %4s s: %s\n' $SECONDS "$*"; }

# Everything that is installed, but for what dpkg writes down and caches.
files() {
    find / -xdev \( -path /proc -o -path /dev -o -path /tmp -o -path /run -o -path /debs -o -path /var/lib/dpkg \
        -o -path /var/log -o -path /var/cache -o -path /var/lib/cachefs -o -path /root/.cache \) -prune -o -print | sort
}

daemon() { sed -n 1p /var/lib/cachefs/.cachefs/lock; }

step "install"
files >/tmp/before
first=$(ls /debs/cachefs_0*.deb)
dpkg -i "$first"
cachefs --version
for file in /usr/sbin/mount.cachefs /usr/lib/systemd/system/cachefs@.service /usr/share/doc/cachefs/copyright; do
    test -e "$file"
done

step "mount from /etc/fstab"
mkdir /srv/cachefs
echo '/var/lib/cachefs  /srv/cachefs/cache  cachefs  retain-for=2h,nofail  0  0' >/etc/fstab
cachefs check /var/lib/cachefs || true
mkdir /srv/cachefs/cache
mount -a
cachefs status
cachefs status --json | grep '"retain_for": 7200'

# A container as far as a cache goes: mounts, processes and a user of its own, and the directory above the mount.
container() {
    local user=$1 script=$2
    unshare --mount --propagation slave --pid --fork --mount-proc sh -ec '
        mkdir -p /shared; mount --rbind /srv/cachefs /shared; mount --make-rslave /shared
        exec setpriv --reuid "$0" --regid "$0" --clear-groups env HOME="/tmp/home.$0" UV_LINK_MODE=copy \
            UV_CACHE_DIR=/shared/cache/uv sh -ec "$1"' "$user" "$script"
}
install='uv pip install --offline --no-index --find-links /wheels --python /usr/bin/python3 --target'

step "two containers install with uv, at once and then from what is there"
mkdir -m 1777 /tmp/targets /shared
container 1000 "$install /tmp/targets/a requests" &
first_job=$!
container 2000 "$install /tmp/targets/b requests"
wait $first_job
container 2000 "$install /tmp/targets/c requests" 2>&1 | tee /tmp/third
! grep Prepared /tmp/third
for target in a b c; do
    test -e /tmp/targets/$target/requests/api.py
done

step "prune, while somebody is at work, and look at what is left"
container 1000 'exec 3</shared/cache/uv/CACHEDIR.TAG; touch /tmp/begun; until [ -e /tmp/pruned ]; do sleep 0.05; done
    find /shared/cache/uv -name api.py -path "*requests*" | grep .' &
at_work=$!
until [ -e /tmp/begun ]; do sleep 0.05; done
cachefs prune --tool uv --dry-run | tee /tmp/would
cachefs prune --tool uv | tee /tmp/done
grep "Would prune" /tmp/would
grep "Pruned .*when these have ended" /tmp/done
touch /tmp/pruned
wait $at_work
container 1000 "$install /tmp/targets/p requests" 2>&1 | tee /tmp/fourth
grep Prepared /tmp/fourth
cachefs report /tmp/report.html
test "$(stat -c %a /tmp/report.html)" = 600
grep '<title>/srv/cachefs/cache - cachefs report</title>' /tmp/report.html
grep '"name":"requests ' /tmp/report.html >/dev/null

step "upgrade while it is mounted and somebody is at work"
container 1000 'exec 3</shared/cache/uv/CACHEDIR.TAG; until [ -e /tmp/upgraded ]; do sleep 0.05; done; cat <&3 >/tmp/targets/read' &
at_work=$!
before=$(daemon)
dpkg -i /debs/cachefs_99.0_*.deb
touch /tmp/upgraded
wait $at_work
test -s /tmp/targets/read
test "$before" = "$(daemon)"
kill -0 "$before"
container 2000 "$install /tmp/targets/d requests"

step "clean, unmount, and mount again with the new program"
cachefs clean pip 2>&1 || true
cachefs umount
test -z "$(ls -A /srv/cachefs/cache)"
mount /srv/cachefs/cache
container 1000 "$install /tmp/targets/e requests"

step "remove: its mount goes with it"
dpkg --purge cachefs
! grep fuse.cachefs /proc/self/mountinfo
rmdir /srv/cachefs/cache /srv/cachefs /shared
files >/tmp/after
diff /tmp/before /tmp/after
test -d /var/lib/cachefs/uv
echo "nothing is left but the store"
