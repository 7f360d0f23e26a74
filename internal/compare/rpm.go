package compare

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	rpmutils "github.com/sassoftware/go-rpmutils"
)

const (
	rpmLead = 96
	// go-rpmutils numbers the tags of the signature header so, but for those
	// below 1000, which only that header has.
	rpmSignatureBase = 16384
	rpmLastSignature = rpmSignatureBase + 1100
)

// openRPM lists the header's tags, and the files with what the header and the
// payload say of them (RPM V4 package format).
func openRPM(c *comparison, b blob) (content, error) {
	if err := rpmFits(b); err != nil {
		return content{}, err
	}
	var out content
	tags := map[int][]string{}
	var end int64
	var paths []string
	err := guard(func() error {
		h, err := rpmutils.ReadHeader(b.reader())
		if err != nil {
			return err
		}
		end = int64(h.GetRange().End)
		for tag := range rpmLastSignature {
			// Those of the signature header below 1000 have two numbers.
			if (tag < rpmSignatureBase || tag >= rpmSignatureBase+1000) && h.HasTag(tag) {
				v, err := h.Get(tag)
				if err != nil {
					return fmt.Errorf("tag %s: %w", rpmTagName(tag), err)
				}
				tags[tag] = rpmValues(v)
			}
		}
		if h.HasTag(rpmutils.BASENAMES) || h.HasTag(rpmutils.OLDFILENAMES) {
			paths, err = h.GetStrings(rpmutils.OLDFILENAMES)
		}
		return err
	})
	if err != nil {
		return content{}, err
	}
	for _, tag := range rpmDependencyTags {
		names, flags, versions := tags[tag[0]], tags[tag[1]], tags[tag[2]]
		if len(names) != len(flags) || len(names) != len(versions) {
			continue
		}
		for i := range names {
			names[i] = rpmDependency(names[i], flags[i], versions[i])
		}
		delete(tags, tag[1])
		delete(tags, tag[2])
	}
	files := make([]member, len(paths))
	for i, p := range paths {
		files[i].name = p
	}
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		name, values := rpmTagName(tag), tags[tag]
		switch {
		case slices.Contains(rpmPathTags, tag):
		case slices.Contains(rpmFileTags, tag) && len(values) == len(files):
			for i, v := range values {
				files[i].attrs = append(files[i].attrs, rpmFileAttr(tag, name, v))
			}
		default:
			out.attrs = append(out.attrs, attr{key: "tag " + name, values: values, derived: slices.Contains(rpmDerivedTags, tag)})
		}
	}
	lead, err := b.section(0, rpmLead)
	if err != nil {
		return content{}, err
	}
	payload, err := b.section(end, b.size-end)
	if err != nil {
		return content{}, err
	}
	if err := c.rpmPayload(payload, files, tags[rpmutils.FILELINKTOS]); err != nil {
		return content{}, fmt.Errorf("payload: %w", err)
	}
	files = append(files, member{name: "lead", data: lead, derived: true})
	out.members = files
	return out, nil
}

// rpmPayload adds the content to the files, but to symbolic links, whose targets
// the header has too.
func (c *comparison) rpmPayload(payload blob, files []member, links []string) error {
	data, err := c.uncompressed(payload)
	if err != nil {
		return err
	}
	archive, err := openCpio(c, data)
	if err != nil {
		return err
	}
	index := map[string]int{}
	for i, f := range files {
		index[f.name] = i
	}
	for _, m := range archive.members {
		// Source packages have names without a folder.
		i, ok := index[strings.TrimPrefix(m.name, ".")]
		if !ok {
			return fmt.Errorf("the payload has %s, the header does not", m.name)
		}
		if i >= len(links) || links[i] == "" {
			files[i].data = m.data
		}
	}
	return nil
}

// rpmFits checks the sizes of both headers before the library allocates them.
func rpmFits(b blob) error {
	at := int64(rpmLead)
	for range 2 {
		intro, err := b.bytes(at, 16)
		if err != nil {
			return err
		}
		entries, size := int64(binary.BigEndian.Uint32(intro[8:])), int64(binary.BigEndian.Uint32(intro[12:]))
		n := 16 + 16*entries + size
		if _, err := b.section(at, n); err != nil {
			return err
		}
		at += (n + 7) &^ 7
	}
	return nil
}

func rpmValues(v any) []string {
	switch v := v.(type) {
	case []string:
		return v
	case []byte: // binary data, or a list of char
		return []string{fmt.Sprintf("%x", v)}
	case []uint16:
		return numbers(v)
	case []uint32:
		return numbers(v)
	case []uint64:
		return numbers(v)
	}
	return []string{fmt.Sprint(v)}
}

func numbers[T uint16 | uint32 | uint64](ns []T) []string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = strconv.FormatUint(uint64(n), 10)
	}
	return out
}

func rpmFileAttr(tag int, name, v string) attr {
	n, err := strconv.ParseUint(v, 10, 64)
	switch tag {
	case rpmutils.FILEMODES:
		if err == nil {
			v = fmt.Sprintf("%06o", n)
		}
		return value("mode", v)
	case rpmutils.FILEMTIMES:
		if err == nil && n < 1<<32 {
			v = timestamp(time.Unix(int64(n), 0))
		}
		return value("mtime", v)
	case rpmutils.FILEUSERNAME:
		return value("user", v)
	case rpmutils.FILEGROUPNAME:
		return value("group", v)
	case rpmutils.FILELINKTOS:
		return value("link target", v)
	}
	return attr{key: "tag " + name, values: []string{v}, derived: slices.Contains(rpmDerivedTags, tag)}
}

// rpmDependency joins what three tags say of one dependency.
func rpmDependency(name, flags, version string) string {
	n, err := strconv.ParseUint(flags, 10, 32)
	if err != nil {
		return name + " " + flags + " " + version
	}
	for _, op := range []struct {
		bit  uint64
		sign string
	}{{rpmutils.RPMSENSE_LESS, "<"}, {rpmutils.RPMSENSE_GREATER, ">"}, {rpmutils.RPMSENSE_EQUAL, "="}} {
		if n&op.bit != 0 {
			name += op.sign
		}
	}
	name += version
	if rest := n &^ (rpmutils.RPMSENSE_LESS | rpmutils.RPMSENSE_GREATER | rpmutils.RPMSENSE_EQUAL); rest != 0 {
		name += fmt.Sprintf(" (flags %#x)", rest)
	}
	return name
}

// rpmDependencyTags are the names, flags and versions of the dependencies,
// which are reported together under the first.
var rpmDependencyTags = [][3]int{
	{rpmutils.PROVIDENAME, rpmutils.PROVIDEFLAGS, rpmutils.PROVIDEVERSION},
	{rpmutils.REQUIRENAME, rpmutils.REQUIREFLAGS, rpmutils.REQUIREVERSION},
	{rpmutils.CONFLICTNAME, rpmutils.CONFLICTFLAGS, rpmutils.CONFLICTVERSION},
	{rpmutils.OBSOLETENAME, rpmutils.OBSOLETEFLAGS, rpmutils.OBSOLETEVERSION},
	{5046, 5048, 5047}, {5049, 5051, 5050}, // RECOMMEND, SUGGEST
	{5052, 5054, 5053}, {5055, 5057, 5056}, // SUPPLEMENT, ENHANCE
	{5035, 5037, 5036}, // ORDER
}

// rpmPathTags hold the paths of the files, by which members are paired.
var rpmPathTags = []int{rpmutils.OLDFILENAMES, rpmutils.BASENAMES, rpmutils.DIRNAMES, rpmutils.DIRINDEXES}

// rpmFileTags hold one value for each file.
var rpmFileTags = []int{
	rpmutils.FILESIZES, rpmutils.LONGFILESIZES, rpmutils.FILEMODES, rpmutils.FILERDEVS, rpmutils.FILEMTIMES,
	rpmutils.FILEDIGESTS, rpmutils.FILELINKTOS, rpmutils.FILEFLAGS, rpmutils.FILEUSERNAME, rpmutils.FILEGROUPNAME,
	rpmutils.FILEVERIFYFLAGS, rpmutils.FILEDEVICES, rpmutils.FILEINODES, rpmutils.FILECOLORS, rpmutils.FILECAPS,
	1097, 1141, 1143, 1144, 1147, 5090, // FILELANGS, FILECLASS, FILEDEPENDSX, FILEDEPENDSN, FILECONTEXTS, FILESIGNATURES
}

// rpmDerivedTags follow from other tags or from the payload: sizes, digests,
// and indexes into lists, which shift with each file that is added. Signatures
// are none of them.
var rpmDerivedTags = []int{
	62, 269, 270, 271, 273, // regions, SHA1HEADER, LONGSIGSIZE, LONGARCHIVESIZE, SHA256HEADER
	rpmutils.SIG_SIZE, rpmutils.SIG_MD5, rpmutils.SIG_PAYLOADSIZE, rpmutils.SIG_RESERVEDSPACE,
	rpmutils.SIZE, rpmutils.LONGSIZE, rpmutils.ARCHIVESIZE,
	rpmutils.FILESIZES, rpmutils.LONGFILESIZES, rpmutils.FILEDIGESTS,
	rpmutils.FILEDEVICES, rpmutils.FILEINODES,
	rpmutils.PAYLOADDIGEST, 5097, // PAYLOADDIGESTALT
	1141, 1142, 1143, 1144, 1145, // FILECLASS, CLASSDICT, FILEDEPENDSX, FILEDEPENDSN, DEPENDSDICT
}

// rpmTagName returns the name of a tag without RPMTAG_ or RPMSIGTAG_, as rpm's
// documentation of the package format has it.
func rpmTagName(tag int) string {
	if name := rpmTagNames[tag]; name != "" {
		return name
	}
	return strconv.Itoa(tag)
}

var rpmTagNames = map[int]string{
	// signature header
	62: "HEADERSIGNATURES", 267: "DSAHEADER", 268: "RSAHEADER", 269: "SHA1HEADER", 270: "LONGSIGSIZE",
	271: "LONGARCHIVESIZE", 273: "SHA256HEADER", 274: "FILESIGNATURES", 275: "FILESIGNATURELENGTH",
	276: "VERITYSIGNATURES", 277: "VERITYSIGNATUREALGO",
	rpmutils.SIG_SIZE: "SIZE of header and payload", rpmutils.SIG_PGP: "PGP", rpmutils.SIG_MD5: "MD5",
	rpmutils.SIG_GPG: "GPG", rpmutils.SIG_PAYLOADSIZE: "PAYLOADSIZE", rpmutils.SIG_RESERVEDSPACE: "RESERVEDSPACE",
	// header
	1000: "NAME", 1001: "VERSION", 1002: "RELEASE", 1003: "EPOCH", 1004: "SUMMARY", 1005: "DESCRIPTION",
	1006: "BUILDTIME", 1007: "BUILDHOST", 1009: "SIZE", 1010: "DISTRIBUTION", 1011: "VENDOR", 1012: "GIF", 1013: "XPM",
	1014: "LICENSE", 1015: "PACKAGER", 1016: "GROUP", 1018: "SOURCE", 1019: "PATCH", 1020: "URL", 1021: "OS",
	1022: "ARCH", 1023: "PREIN", 1024: "POSTIN", 1025: "PREUN", 1026: "POSTUN", 1027: "OLDFILENAMES", 1028: "FILESIZES",
	1030: "FILEMODES", 1033: "FILERDEVS", 1034: "FILEMTIMES", 1035: "FILEDIGESTS", 1036: "FILELINKTOS",
	1037: "FILEFLAGS", 1039: "FILEUSERNAME", 1040: "FILEGROUPNAME", 1043: "ICON", 1044: "SOURCERPM",
	1045: "FILEVERIFYFLAGS", 1046: "ARCHIVESIZE", 1047: "PROVIDENAME", 1048: "REQUIREFLAGS", 1049: "REQUIRENAME",
	1050: "REQUIREVERSION", 1051: "NOSOURCE", 1052: "NOPATCH", 1053: "CONFLICTFLAGS", 1054: "CONFLICTNAME",
	1055: "CONFLICTVERSION", 1059: "EXCLUDEARCH", 1060: "EXCLUDEOS", 1061: "EXCLUSIVEARCH", 1062: "EXCLUSIVEOS",
	1064: "RPMVERSION", 1065: "TRIGGERSCRIPTS", 1066: "TRIGGERNAME", 1067: "TRIGGERVERSION", 1068: "TRIGGERFLAGS",
	1069: "TRIGGERINDEX", 1079: "VERIFYSCRIPT", 1080: "CHANGELOGTIME", 1081: "CHANGELOGNAME", 1082: "CHANGELOGTEXT",
	1085: "PREINPROG", 1086: "POSTINPROG", 1087: "PREUNPROG", 1088: "POSTUNPROG", 1089: "BUILDARCHS",
	1090: "OBSOLETENAME", 1091: "VERIFYSCRIPTPROG", 1092: "TRIGGERSCRIPTPROG", 1095: "FILEDEVICES", 1096: "FILEINODES",
	1097: "FILELANGS", 1098: "PREFIXES", 1112: "PROVIDEFLAGS", 1113: "PROVIDEVERSION", 1114: "OBSOLETEFLAGS",
	1115: "OBSOLETEVERSION", 1116: "DIRINDEXES", 1117: "BASENAMES", 1118: "DIRNAMES", 1122: "OPTFLAGS", 1123: "DISTURL",
	1124: "PAYLOADFORMAT", 1125: "PAYLOADCOMPRESSOR", 1126: "PAYLOADFLAGS", 1132: "PLATFORM", 1133: "PATCHESNAME",
	1134: "PATCHESFLAGS", 1135: "PATCHESVERSION", 1140: "FILECOLORS", 1141: "FILECLASS", 1142: "CLASSDICT",
	1143: "FILEDEPENDSX", 1144: "FILEDEPENDSN", 1145: "DEPENDSDICT", 1146: "SOURCEPKGID", 1147: "FILECONTEXTS",
	1150: "POLICIES", 1151: "PRETRANS", 1152: "POSTTRANS", 1153: "PRETRANSPROG", 1154: "POSTTRANSPROG", 1155: "DISTTAG",
	1156: "OLDSUGGESTSNAME", 1157: "OLDSUGGESTSVERSION", 1158: "OLDSUGGESTSFLAGS", 1159: "OLDENHANCESNAME",
	1160: "OLDENHANCESVERSION", 1161: "OLDENHANCESFLAGS", 5008: "LONGFILESIZES", 5009: "LONGSIZE", 5010: "FILECAPS",
	5011: "FILEDIGESTALGO", 5012: "BUGURL", 5020: "PREINFLAGS", 5021: "POSTINFLAGS", 5022: "PREUNFLAGS",
	5023: "POSTUNFLAGS", 5024: "PRETRANSFLAGS", 5025: "POSTTRANSFLAGS", 5026: "VERIFYSCRIPTFLAGS",
	5027: "TRIGGERSCRIPTFLAGS", 5030: "POLICYNAMES", 5031: "POLICYTYPES", 5032: "POLICYTYPESINDEXES",
	5033: "POLICYFLAGS", 5034: "VCS", 5035: "ORDERNAME", 5036: "ORDERVERSION", 5037: "ORDERFLAGS",
	5046: "RECOMMENDNAME", 5047: "RECOMMENDVERSION", 5048: "RECOMMENDFLAGS", 5049: "SUGGESTNAME",
	5050: "SUGGESTVERSION", 5051: "SUGGESTFLAGS", 5052: "SUPPLEMENTNAME", 5053: "SUPPLEMENTVERSION",
	5054: "SUPPLEMENTFLAGS", 5055: "ENHANCENAME", 5056: "ENHANCEVERSION", 5057: "ENHANCEFLAGS", 5062: "ENCODING",
	5066: "FILETRIGGERSCRIPTS", 5067: "FILETRIGGERSCRIPTPROG", 5068: "FILETRIGGERSCRIPTFLAGS", 5069: "FILETRIGGERNAME",
	5070: "FILETRIGGERINDEX", 5071: "FILETRIGGERVERSION", 5072: "FILETRIGGERFLAGS", 5076: "TRANSFILETRIGGERSCRIPTS",
	5077: "TRANSFILETRIGGERSCRIPTPROG", 5078: "TRANSFILETRIGGERSCRIPTFLAGS", 5079: "TRANSFILETRIGGERNAME",
	5080: "TRANSFILETRIGGERINDEX", 5081: "TRANSFILETRIGGERVERSION", 5082: "TRANSFILETRIGGERFLAGS",
	5084: "FILETRIGGERPRIORITIES", 5085: "TRANSFILETRIGGERPRIORITIES", 5090: "FILESIGNATURES",
	5091: "FILESIGNATURELENGTH", 5092: "PAYLOADDIGEST", 5093: "PAYLOADDIGESTALGO", 5096: "MODULARITYLABEL",
	5097: "PAYLOADDIGESTALT", 5099: "SPEC", 5100: "TRANSLATIONURL", 5101: "UPSTREAMRELEASES",
}
