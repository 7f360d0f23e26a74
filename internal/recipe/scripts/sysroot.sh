# Installs the packages named as arguments, from exactly the RPMs below
# /slipway/rpms, into /sysroot. Runs as root, without network.
mkdir -p /sysroot/usr/lib
ln -s lib /sysroot/usr/lib64
ln -s usr/lib /sysroot/lib
ln -s usr/lib /sysroot/lib64
db='_dbpath /var/lib/rpm'
rpm --root /sysroot --define "$db" --initdb
[ $# -gt 0 ] || exit 0

mkdir /tmp/repo /tmp/rpms
ln -s /slipway/rpms/*/*.rpm /tmp/repo/
createrepo_c --quiet --no-database --simple-md-filenames /tmp/repo
dnf --quiet --assumeyes --noplugins --nogpgcheck --releasever=1 --forcearch="$SLIPWAY_ARCH" \
  --setopt=reposdir=/none --setopt=varsdir=/none --setopt=cachedir=/tmp/cache --setopt=install_weak_deps=0 \
  --repofrompath=slipway,file:///tmp/repo --repo=slipway --installroot=/tmp/root \
  --downloadonly --destdir=/tmp/rpms install "$@"
rpm --root /sysroot --define "$db" --noscripts --nosignature --ignorearch -U /tmp/rpms/*.rpm
