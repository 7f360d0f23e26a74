# Installs the RPMs below /slipway/rpms and one that states the variant's facts into a
# root, and makes the parts of an image in /parts but for the file system, which
# filesystem.sh makes. Programs of the RPMs below /slipway/tools come before the SDK's.
# Runs as root, without network, loop devices or device mapper.
root=/image/root parts=/parts
mkdir -p "$root"
if [ -d /slipway/tools ]; then
  mkdir /image/tools
  for tool in /slipway/tools/*/*.rpm; do
    rpm2cpio "$tool" | cpio --quiet -idm -D /image/tools
  done
  PATH=/image/tools/usr/bin:/image/tools/usr/sbin:$PATH
fi

echo "+ slipway: phase install"
rpmbuild -bb --quiet --define '_topdir /tmp/metadata' --define '_rpmdir /tmp/rpms' --define '_rpmfilename metadata.rpm' \
  --target "$SLIPWAY_ARCH" /slipway/metadata/metadata.spec
db=/usr/lib/sysimage/rpm
# rpm checks that nothing is missing and nothing in conflict
rpm --root "$root" --define "_dbpath $db" --noscripts --nosignature --ignorearch -U /slipway/rpms/*/*.rpm /tmp/rpms/metadata.rpm
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
