# Resolves the packages named as arguments from the RPMs below /slipway/rpms,
# installs them into a root, and makes the parts of an image in /parts but for the
# file system, which filesystem.sh makes. Runs as root, without network, loop
# devices or device mapper.
mkdir /tmp/repo /tmp/rpms
root=/image/root parts=/parts
mkdir -p "$root"

echo "+ slipway: phase resolve"
rpmbuild -bb --quiet --define '_topdir /tmp/metadata' --define '_rpmdir /tmp/repo' --define '_rpmfilename %{NAME}.rpm' \
  --target "$SLIPWAY_ARCH" /slipway/metadata/metadata.spec
ln -s /slipway/rpms/*/*.rpm /tmp/repo/
createrepo_c --quiet --no-database --simple-md-filenames /tmp/repo
dnf --quiet --assumeyes --noplugins --nogpgcheck --releasever=1 --forcearch="$SLIPWAY_ARCH" \
  --setopt=reposdir=/none --setopt=varsdir=/none --setopt=cachedir=/tmp/cache --setopt=install_weak_deps=0 \
  --repofrompath=slipway,file:///tmp/repo --repo=slipway --installroot=/tmp/root \
  --downloadonly --destdir=/tmp/rpms install "$@"

echo "+ slipway: phase install"
db=/usr/lib/sysimage/rpm
rpm --root "$root" --define "_dbpath $db" --noscripts --nosignature --ignorearch -U /tmp/rpms/*.rpm
rpm --root "$root" --define "_dbpath $db" -qa \
  --qf '%{NAME}\t%{EPOCHNUM}\t%{VERSION}\t%{RELEASE}\t%{ARCH}\t%{LICENSE}\t%{URL}\t%{SIZE}\t%{SUMMARY}\n' | LC_ALL=C sort > /parts/inventory.tsv
# no package manager and no package database in the image
rm -rf "${root:?}$db" "$root/var/lib/rpm"
rmdir --ignore-fail-on-non-empty "$root/usr/lib/sysimage" 2>/dev/null || true

for modules in "$root"/usr/lib/modules/*; do
  [ ! -d "$modules" ] || depmod -a -b "$root" "$(basename "$modules")"
done
[ -f "$root/usr/lib/os-release" ] || { echo "no package of this variant ships /usr/lib/os-release" >&2; exit 1; }
cat /slipway/metadata/os-release >> "$root/usr/lib/os-release"
cp "$root/usr/lib/os-release" /parts/os-release

[ -f "$root/boot/vmlinuz" ] || { echo "no package of this variant ships /boot/vmlinuz: include a kernel" >&2; exit 1; }
mkdir /parts/boot
cp -r "$root"/boot/. /parts/boot/
find "$root/boot" -mindepth 1 -delete
efi=/usr/lib/systemd/boot/efi
[ ! -d "$root$efi" ] || efi=$root$efi
cp "$efi/linux$SLIPWAY_EFI_ARCH.efi.stub" "$efi/systemd-boot$SLIPWAY_EFI_ARCH.efi" /parts/
