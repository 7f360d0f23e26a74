// Package inspect reads disks that internal/image has made: it reports what lies
// on them and verifies that it belongs together. It only reads, needs no
// privileges, and takes a disk of any format for what it is: input that may be
// damaged or made to deceive.
package inspect

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/image/authenticode"
	"slipway/internal/image/fat"
	"slipway/internal/image/format"
	"slipway/internal/image/gpt"
	"slipway/internal/image/uki"
	"slipway/internal/image/verity"
)

// Report is what lies on a disk. Sizes and offsets are in bytes.
type Report struct {
	Format     format.Kind `json:"format"` // of the file
	Size       int64       `json:"size"`   // of the disk
	Table      Table       `json:"partitionTable"`
	Partitions []Partition `json:"partitions"`
	Slots      []Slot      `json:"slots"`
	ESP        []File      `json:"esp"`     // files of the EFI system partition
	Kernels    []Kernel    `json:"kernels"` // unified kernel images among them
}

// Table is the state of the partition table: "intact" or what is wrong.
type Table struct {
	Disk    gpt.GUID `json:"diskGuid"`
	Primary string   `json:"primary"`
	Backup  string   `json:"backup"`
}

// Partition is one partition.
type Partition struct {
	Number     int      `json:"number"` // from 1
	Label      string   `json:"label"`
	Type       gpt.GUID `json:"type"`
	TypeName   string   `json:"typeName"`
	UUID       gpt.GUID `json:"uuid"`
	Start      int64    `json:"start"`
	Size       int64    `json:"size"`
	Attributes string   `json:"attributes"` // all 64 bits in hexadecimal
	ReadOnly   bool     `json:"readOnly"`
	// Content is fat12, fat16, fat32, erofs, squashfs, ext4, xfs, verity, "blank" where the
	// first 64 KiB are zero, or "unknown".
	Content string `json:"content"`
}

// Slot is a root partition with its hash partition.
type Slot struct {
	Name    string `json:"name"` // A, B, …
	Root    int    `json:"root"` // number of the partition
	Hash    int    `json:"hash"`
	Empty   bool   `json:"empty"` // both are blank
	Version string `json:"version,omitempty"`
	// RootHash is that of the kernel that boots the slot, else what the two
	// partitions' UUIDs spell.
	RootHash string  `json:"rootHash,omitempty"`
	Kernel   string  `json:"kernel,omitempty"` // path on the ESP
	Verity   *Verity `json:"verity,omitempty"`
	// VeritySuperblock tells what is wrong where there is no superblock.
	VeritySuperblock string `json:"veritySuperblock,omitempty"`

	root verity.RootHash
}

// Verity is the superblock of a hash partition.
type Verity struct {
	UUID       gpt.GUID `json:"uuid"`
	DataBlocks uint64   `json:"dataBlocks"`
	DataSize   int64    `json:"dataSize"`
	HashSize   int64    `json:"hashSize"` // with the superblock
	Salt       string   `json:"salt"`     // hexadecimal
}

// File is a file of the EFI system partition.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Signers are the subjects of the certificates whose Authenticode
	// signatures an EFI program has.
	Signers []string `json:"signers,omitempty"`
	// Signatures tells what is wrong with them.
	Signatures string `json:"signatures,omitempty"`

	data []byte
}

// Kernel is a unified kernel image in /EFI/Linux.
type Kernel struct {
	Path    string `json:"path"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// TriesLeft and TriesDone are the boot counters in the file name
	// (systemd's Automatic Boot Assessment); absent for a good image.
	TriesLeft *int              `json:"triesLeft,omitempty"`
	TriesDone *int              `json:"triesDone,omitempty"`
	Sections  []Section         `json:"sections"`
	Cmdline   string            `json:"cmdline"`
	OSRelease map[string]string `json:"osRelease"`
	Uname     string            `json:"uname,omitempty"`
	RootHash  string            `json:"rootHash,omitempty"`
	Error     string            `json:"error,omitempty"` // why it could not be read

	verity *kernelVerity
}

// Section is a section of an EFI program.
type Section struct {
	Name    string `json:"name"`
	Address uint32 `json:"address"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
}

const intact = "intact"

// Disk reports what lies on a disk. What is damaged is reported as such; the
// error, which wraps gpt.ErrNoTable for a disk without partitions, is for disks
// that cannot be read at all.
func Disk(d *format.Disk) (*Report, error) {
	r, _, err := read(d)
	return r, err
}

func read(d *format.Disk) (*Report, *gpt.Table, error) {
	t, damage, err := gpt.Read(d, d.Size())
	if err != nil {
		return nil, nil, err
	}
	r := &Report{Format: d.Kind, Size: d.Size(), Slots: []Slot{}, ESP: []File{}, Kernels: []Kernel{},
		Table: Table{Disk: t.Disk, Primary: state(damage.Primary), Backup: state(damage.Backup)}}
	for i, e := range t.Entries {
		if !e.Used() {
			continue
		}
		if e.First > e.Last || e.Last >= t.Sectors {
			return nil, nil, fmt.Errorf("partition %d (%s): sectors %d to %d lie outside the disk of %d", i+1, e.Name, e.First, e.Last, t.Sectors)
		}
		content, err := contentOf(section(d, e))
		if err != nil {
			return nil, nil, fmt.Errorf("partition %d (%s): %w", i+1, e.Name, err)
		}
		r.Partitions = append(r.Partitions, Partition{
			Number: i + 1, Label: e.Name, Type: e.Type, TypeName: gpt.TypeName(e.Type), UUID: e.GUID, Start: e.Start(), Size: e.Size(),
			Attributes: fmt.Sprintf("%#016x", e.Attributes), ReadOnly: e.Attributes&gpt.AttributeReadOnly != 0, Content: content,
		})
	}
	for i, e := range t.Entries {
		if e.Type != gpt.TypeESP {
			continue
		}
		if err := r.esp(section(d, e)); err != nil {
			r.Partitions[slices.IndexFunc(r.Partitions, func(p Partition) bool { return p.Number == i+1 })].Content = "damaged: " + err.Error()
		}
		break
	}
	r.slots(d, t)
	return r, t, nil
}

func state(err error) string {
	if err == nil {
		return intact
	}
	return err.Error()
}

func section(d *format.Disk, e gpt.Entry) *io.SectionReader {
	return io.NewSectionReader(d, e.Start(), e.Size())
}

// contentOf tells what begins at the start of a partition.
func contentOf(s *io.SectionReader) (string, error) {
	head := make([]byte, min(s.Size(), 64<<10))
	if _, err := s.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	for _, m := range []struct {
		name, magic string
		at          int
	}{
		{"fat32", "FAT32   ", 82}, {"fat16", "FAT16   ", 54}, {"fat12", "FAT12   ", 54}, {"erofs", "\xe2\xe1\xf5\xe0", 1024}, {"squashfs", "hsqs", 0},
		{"ext4", "\x53\xef", 1080}, {"xfs", "XFSB", 0}, {"verity", "verity\x00\x00", 0},
	} {
		if len(head) > m.at && bytes.HasPrefix(head[m.at:], []byte(m.magic)) {
			return m.name, nil
		}
	}
	if blank(head) {
		return "blank", nil
	}
	return "unknown", nil
}

func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (r *Report) esp(s io.ReaderAt) error {
	files, err := fat.Read(s)
	if err != nil {
		return err
	}
	for _, f := range files {
		file := File{Path: f.Path, Size: int64(len(f.Data)), SHA256: digest(f.Data), data: f.Data}
		if isProgram(f.Path) {
			file.signers()
			if strings.EqualFold(path.Dir(f.Path), "EFI/Linux") {
				r.Kernels = append(r.Kernels, ReadKernel(f.Path, f.Data))
			}
		}
		r.ESP = append(r.ESP, file)
	}
	return nil
}

// isProgram tells whether firmware takes a file of the EFI system partition for a
// program.
func isProgram(name string) bool { return strings.EqualFold(path.Ext(name), ".efi") }

func (f *File) signers() {
	table, err := certificateTable(f.data)
	if err != nil || table == 0 {
		return
	}
	signers, err := authenticode.Signers(f.data)
	if err != nil {
		f.Signatures = err.Error()
		return
	}
	for _, c := range signers {
		f.Signers = append(f.Signers, c.Subject.String())
	}
}

// Offsets in the optional header of a PE file (PE Format, "Optional Header").
const (
	optChecksum   = 64
	optSecurity   = 4 * 8 // in the data directories
	optPE32       = 96    // where the data directories begin
	optPE32Plus   = 112
	magicPE32Plus = 0x20b
)

// optional returns the offset of the optional header.
func optional(image []byte) (int, error) {
	if len(image) < 64 || string(image[:2]) != "MZ" {
		return 0, errors.New("not an EFI program: no DOS header")
	}
	at := int64(binary.LittleEndian.Uint32(image[0x3c:]))
	if at+24+optPE32Plus+optSecurity+8 > int64(len(image)) || string(image[at:at+4]) != "PE\x00\x00" {
		return 0, errors.New("not an EFI program: no PE header")
	}
	return int(at) + 24, nil
}

// certificateTable is the size of the table of signatures in an EFI program.
func certificateTable(image []byte) (uint32, error) {
	opt, err := optional(image)
	if err != nil {
		return 0, err
	}
	directories := opt + optPE32
	if binary.LittleEndian.Uint16(image[opt:]) == magicPE32Plus {
		directories = opt + optPE32Plus
	}
	return binary.LittleEndian.Uint32(image[directories+optSecurity+4:]), nil
}

// checkSum compares the checksum of an EFI program, which is optional.
func checkSum(image []byte) error {
	opt, err := optional(image)
	if err != nil {
		return err
	}
	field := image[opt+optChecksum:]
	want := binary.LittleEndian.Uint32(field)
	if want == 0 {
		return nil
	}
	copied := bytes.Clone(image)
	copy(copied[opt+optChecksum:], make([]byte, 4))
	if got := uki.Checksum(copied); got != want {
		return fmt.Errorf("its checksum is %08x, its header says %08x: it was changed after it was made", got, want)
	}
	return nil
}

// Names of kernels: NAME_VERSION+LEFT-DONE.efi, where the counters may be absent.
var counters = regexp.MustCompile(`^(.*?)(?:\+([0-9]{1,9})(?:-([0-9]{1,9}))?)?$`)

func (k *Kernel) parseName(base string) {
	m := counters.FindStringSubmatch(base)
	if m == nil { // a line break
		k.Name = base
		return
	}
	for i, to := range []**int{&k.TriesLeft, &k.TriesDone} {
		if n, err := strconv.Atoi(m[2+i]); err == nil {
			*to = &n
		}
	}
	k.Name, k.Version, _ = strings.Cut(m[1], "_")
}

// ReadKernel takes the unified kernel image of that name apart; what is wrong with
// it is in Error. debug/pe does not promise to withstand every file.
func ReadKernel(name string, data []byte) (k Kernel) {
	k = Kernel{Path: name, Sections: []Section{}, OSRelease: map[string]string{}}
	k.parseName(strings.TrimSuffix(path.Base(name), path.Ext(name)))
	defer func() {
		if p := recover(); p != nil {
			k.Error = fmt.Sprintf("damaged: %v", p)
		}
	}()
	sections, err := uki.Inspect(bytes.NewReader(data))
	if err != nil {
		k.Error = err.Error()
		return k
	}
	for _, s := range sections {
		k.Sections = append(k.Sections, Section{Name: s.Name, Address: s.Address, Size: int64(len(s.Data)), SHA256: digest(s.Data)})
		switch s.Name {
		case ".cmdline":
			k.Cmdline = strings.TrimRight(string(s.Data), "\x00\n")
		case ".osrel":
			k.OSRelease = ParseOSRelease(string(s.Data))
		case ".uname":
			k.Uname = string(s.Data)
		}
	}
	k.verity, err = parseCmdline(k.Cmdline)
	if err != nil {
		k.Error = err.Error()
	} else if k.verity != nil {
		k.RootHash = k.verity.root.String()
	}
	return k
}

// ParseOSRelease reads os-release(5): shell assignments without expansion. Other
// lines are passed over.
func ParseOSRelease(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			quote := value[0]
			value = value[1 : n-1]
			if quote == '"' {
				value = unescape.ReplaceAllString(value, "$1")
			}
		}
		out[name] = value
	}
	return out
}

var unescape = regexp.MustCompile("\\\\([$\"\\\\`])")

// kernelVerity is the dm-verity table on a kernel command line.
type kernelVerity struct {
	root           verity.RootHash
	salt           []byte
	blocks         uint64
	rootID, hashID gpt.GUID
}

var dmCreate = regexp.MustCompile(`(?:^| )dm[-_]mod\.create="([^"]*)"`)

// parseCmdline reads dm-mod.create= as internal/image writes it; nil where the
// command line has none with a verity target.
func parseCmdline(line string) (*kernelVerity, error) {
	m := dmCreate.FindStringSubmatch(line)
	if m == nil {
		return nil, nil
	}
	_, table, ok := strings.Cut(m[1], " verity 1 ")
	f := strings.Fields(table)
	if !ok {
		return nil, nil
	}
	bad := func(what string) (*kernelVerity, error) {
		return nil, fmt.Errorf("kernel command line: %s in the dm-verity table %q", what, m[1])
	}
	if len(f) < 9 {
		return bad("too few fields")
	}
	v := &kernelVerity{}
	for i, to := range []*gpt.GUID{&v.rootID, &v.hashID} {
		text, ok := strings.CutPrefix(f[i], "PARTUUID=")
		id, err := gpt.ParseGUID(text)
		if !ok || err != nil {
			return bad(fmt.Sprintf("%q is not the UUID of a partition", f[i]))
		}
		*to = id
	}
	var err error
	if v.blocks, err = strconv.ParseUint(f[4], 10, 64); err != nil {
		return bad("no number of blocks")
	}
	if v.root, err = verity.ParseRootHash(f[7]); err != nil || f[6] != "sha256" {
		return bad("no root hash")
	}
	if f[8] != "-" {
		if v.salt, err = hex.DecodeString(f[8]); err != nil {
			return bad("no salt")
		}
	}
	return v, nil
}

// slots pairs the root partitions with the hash partitions, in order.
func (r *Report) slots(d *format.Disk, t *gpt.Table) {
	var roots, hashes []Partition
	for _, p := range r.Partitions {
		if gpt.IsRoot(p.Type) || r.named(p.UUID, func(v *kernelVerity) gpt.GUID { return v.rootID }) {
			roots = append(roots, p)
		}
		if gpt.IsHash(p.Type) || r.named(p.UUID, func(v *kernelVerity) gpt.GUID { return v.hashID }) {
			hashes = append(hashes, p)
		}
	}
	for i := range min(len(roots), len(hashes)) {
		root, hash := roots[i], hashes[i]
		s := Slot{Name: string(rune('A' + i)), Root: root.Number, Hash: hash.Number, Empty: root.Content == "blank" && hash.Content == "blank"}
		if !s.Empty {
			s.root = verity.RootHash(append(root.UUID[:], hash.UUID[:]...))
			if k := r.bootedBy(root, hash); k != nil {
				s.Kernel, s.Version, s.root = k.Path, k.Version, k.verity.root
			}
			s.RootHash = s.root.String()
			if _, version, ok := strings.Cut(root.Label, "_"); ok {
				s.Version = cmp.Or(s.Version, version)
			}
			sb, err := verity.ReadSuperblock(section(d, t.Entries[hash.Number-1]))
			if err != nil {
				s.VeritySuperblock = err.Error()
			} else {
				s.Verity = &Verity{UUID: gpt.GUID(sb.UUID), DataBlocks: sb.DataBlocks, DataSize: int64(sb.DataBlocks) * verity.BlockSize,
					HashSize: sb.HashSize(), Salt: hex.EncodeToString(sb.Salt)}
			}
		}
		r.Slots = append(r.Slots, s)
	}
}

// named says whether a kernel names the partition, as a custom plan may give it
// any type.
func (r *Report) named(id gpt.GUID, by func(*kernelVerity) gpt.GUID) bool {
	return slices.ContainsFunc(r.Kernels, func(k Kernel) bool { return k.verity != nil && by(k.verity) == id })
}

// bootedBy is the kernel that names both partitions, else one of them, in its
// root hash: so a slot with one wrong UUID is known for what it is meant to be.
func (r *Report) bootedBy(root, hash Partition) *Kernel {
	for _, least := range []int{2, 1} {
		for i, k := range r.Kernels {
			if k.verity == nil {
				continue
			}
			rootID, hashID := halves(k.verity.root)
			fit := 0
			if rootID == root.UUID {
				fit++
			}
			if hashID == hash.UUID {
				fit++
			}
			if fit >= least {
				return &r.Kernels[i]
			}
		}
	}
	return nil
}

func halves(h verity.RootHash) (root, hash gpt.GUID) { return gpt.GUID(h[:16]), gpt.GUID(h[16:]) }
