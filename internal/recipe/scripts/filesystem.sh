# Makes of the tree $root the file system $parts/root.$SLIPWAY_FILESYSTEM, and removes
# the tree. Follows image.sh.
echo "+ slipway: phase filesystem"
fail() { echo "$*" >&2; exit 1; }

# the kernel's package may say how it was configured
built_in() {
  [ ! -f "$parts/boot/config" ] || grep -qx "$1=y" "$parts/boot/config" ||
    fail "the kernel could not read the root: its /boot/config has no $1=y"
}

# labels of the policy, where the packages ship one
contexts=
if [ -f "$root/etc/selinux/config" ]; then
  policy=$(sed -n 's/^[[:space:]]*SELINUXTYPE=\([^[:space:]]*\)[[:space:]]*$/\1/p' "$root/etc/selinux/config" | tail -n 1)
  [ -n "$policy" ] || fail "/etc/selinux/config of the image has no SELINUXTYPE=<policy>"
  contexts=$root/etc/selinux/$policy/contexts/files/file_contexts
  [ -f "$contexts" ] || fail "/etc/selinux/config of the image names the policy $policy, but no package ships ${contexts#"$root"}"
  echo "labels of the policy $policy"
fi

made=$parts/root.$SLIPWAY_FILESYSTEM
case $SLIPWAY_FILESYSTEM in
erofs)
  built_in CONFIG_EROFS_FS
  case $SLIPWAY_COMPRESSION in
  # level 9 takes twice the time and saves 1.5 %
  lz4hc) built_in CONFIG_EROFS_FS_ZIP; level=4 ;;
  zstd) built_in CONFIG_EROFS_FS_ZIP_ZSTD; level=15 ;;
  esac
  mkfs.erofs --quiet -z"$SLIPWAY_COMPRESSION,$level" -C65536 -T"$SOURCE_DATE_EPOCH" -U"$SLIPWAY_UUID" \
    ${contexts:+--file-contexts="$contexts"} "$made" "$root"
  ;;
ext4)
  built_in CONFIG_EXT4_FS
  export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
  # Room for all, which is cut to what is needed below. Nothing is ever written
  # to it, so there is no journal, and no inode too many.
  read -r inodes blocks < <(find "$root" -printf '%s\n' | awk '{ n++; b += int(($1 + 8191) / 4096) } END { print n + 32, int(b * 1.02) + n + 2048 }')
  mke2fs -q -t ext4 -b 4096 -I 256 -N "$inodes" -m 0 -U "$SLIPWAY_UUID" -E hash_seed="$SLIPWAY_UUID",lazy_itable_init=0,nodiscard \
    -O none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,metadata_csum,sparse_super \
    -d "$root" "$made" "$blocks"
  # mke2fs takes over all times that the files have here, and neither labels nor
  # anything of the root directory
  python3 - "$root" "$SOURCE_DATE_EPOCH" "$contexts" > /tmp/debugfs <<'PYTHON'
import ctypes, errno, os, sys

root, newest, contexts = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3].encode()
out = sys.stdout.buffer
label = lambda path, mode: None

if contexts:
    class Option(ctypes.Structure):  # selinux_opt of <selinux/label.h>
        _fields_ = [("type", ctypes.c_int), ("value", ctypes.c_char_p)]

    lib = ctypes.CDLL("libselinux.so.1", use_errno=True)
    lib.selabel_open.restype = ctypes.c_void_p
    lib.selabel_lookup_raw.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_char_p, ctypes.c_int]
    SELABEL_CTX_FILE, SELABEL_OPT_PATH = 0, 3
    handle = lib.selabel_open(SELABEL_CTX_FILE, ctypes.byref(Option(SELABEL_OPT_PATH, contexts)), 1)
    if not handle:
        sys.exit("%s: %s" % (sys.argv[3], os.strerror(ctypes.get_errno())))

    def label(path, mode):
        found = ctypes.c_char_p()
        if lib.selabel_lookup_raw(handle, ctypes.byref(found), path, mode) == 0:
            return found.value  # what it points to is not freed: the program ends soon
        if ctypes.get_errno() != errno.ENOENT:
            sys.exit("%s: label of %r: %s" % (sys.argv[3], path, os.strerror(ctypes.get_errno())))


def entry(full):
    path = full[len(root):] or b"/"
    if b"\n" in path:
        sys.exit("the image has a file with a line break in its name: %r" % path)
    quoted = b'"' + path.replace(b'"', b'""') + b'"'
    st = os.lstat(full)
    for field in (b"atime", b"ctime", b"mtime"):  # as mkfs.erofs has them
        out.write(b"sif %s %s @%d\n" % (quoted, field, min(int(st.st_mtime), newest)))
    context = label(path, st.st_mode)
    if context:
        out.write(b'ea_set %s security.selinux "%s"\n' % (quoted, context))


st = os.lstat(root)
if contexts and not label(b"/", st.st_mode):
    sys.exit(sys.argv[3] + " has no label for /, or is damaged")
entry(root)
out.write(b"sif / mode 0%o\nsif / uid %d\nsif / gid %d\n" % (st.st_mode, st.st_uid, st.st_gid))
for directory, directories, files in os.walk(root):
    directories.sort()
    for name in sorted(directories + files):
        entry(os.path.join(directory, name))
PYTHON
  debugfs -w -f /tmp/debugfs "$made" 2> /tmp/errors > /dev/null
  ! grep -v '^debugfs [0-9]' /tmp/errors >&2 || exit 1
  resize2fs -M "$made"
  e2fsck -fn "$made"
  ;;
esac

[ -z "${SLIPWAY_HOLD:-}" ] || exit 86
rm -rf "$root"
