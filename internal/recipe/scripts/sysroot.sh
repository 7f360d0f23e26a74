# Installs the RPMs below /slipway/rpms into /sysroot; rpm checks that they have all
# that they require. Runs as root, without network.
mkdir -p /sysroot/usr/lib
ln -s lib /sysroot/usr/lib64
ln -s usr/lib /sysroot/lib
ln -s usr/lib /sysroot/lib64
db='_dbpath /var/lib/rpm'
rpm --root /sysroot --define "$db" --initdb
shopt -s nullglob
set -- /slipway/rpms/*/*.rpm
[ $# -gt 0 ] || exit 0
rpm --root /sysroot --define "$db" --noscripts --nosignature --ignorearch -U "$@"
