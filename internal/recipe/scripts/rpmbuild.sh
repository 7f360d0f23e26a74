# Builds one spec file: own files in /slipway/package, upstream sources in
# /slipway/sources/N/, first-party sources in /slipway/groups. Runs as builder,
# without network. Leaves the RPMs in ~/rpmbuild/RPMS.
top=$HOME/rpmbuild
mkdir -p "$top"/{BUILD,BUILDROOT,RPMS,SOURCES,SPECS,SRPMS}
cd "$top"
for file in /slipway/package/* /slipway/sources/*/*; do
  [ ! -e "$file" ] || ln -s "$file" SOURCES/
done
[ ! -d /slipway/groups ] || ln -s /slipway/groups BUILD/sources

rpmbuild -bb --define "_topdir $top" --define "_dbpath $SLIPWAY_SYSROOT/var/lib/rpm" \
  --target "$SLIPWAY_ARCH" "SOURCES/$SLIPWAY_SPEC" 2>&1

[ -z "${SLIPWAY_HOLD:-}" ] || exit 86
rm -rf BUILD BUILDROOT
