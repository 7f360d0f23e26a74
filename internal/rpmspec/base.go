package rpmspec

import "strings"

// NewMacros returns a table with what every spec may count on: rpm's built-in
// macros, %nil, %with and %bcond and their kin, the architecture lists and the
// directory names. [Parse] adds the macros of the target architecture. The
// paths are those of a Linux build root; load a macro file on top to change them.
func NewMacros() *Macros {
	m := &Macros{own: make(map[string]*entry, 192)}
	for name, b := range builtins() {
		m.own[name] = &entry{name: name, builtin: b}
	}
	for rest := baseMacros; rest != ""; {
		line, after, _ := strings.Cut(rest, "\n")
		rest = after
		name, body, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		e := &entry{name: name, body: strings.TrimSpace(body)}
		if n, opts, ok := strings.Cut(name, "("); ok {
			e.name, e.opts, e.parametric = n, strings.TrimSuffix(opts, ")"), true
		}
		m.own[e.name] = e
	}
	return m
}

// baseMacros holds "name<tab>body" lines.
const baseMacros = `
nil	
with()	%{expand:%%{?with_%{1}:1}%%{!?with_%{1}:0}}
without()	%{expand:%%{?with_%{1}:0}%%{!?with_%{1}:1}}
defined()	%{expand:%%{?%{1}:1}%%{!?%{1}:0}}
undefined()	%{expand:%%{?%{1}:0}%%{!?%{1}:1}}
bcond()	%[ (%2) ? "%{expand:%%{!?_without_%{1}:%%global with_%{1} 1}}" : "%{expand:%%{?_with_%{1}:%%global with_%{1} 1}}" ]
bcond_with()	%bcond %{1} 0
bcond_without()	%bcond %{1} 1
_target_os	linux
_os	linux
_vendor	slipway
_gnu	-gnu
_target_platform	%{_target_cpu}-%{_vendor}-%{_target_os}
_target	%{_target_cpu}-%{_target_os}
_isa	%{?__isa:(%{__isa})}
_host	%{_host_cpu}-pc-linux-gnu
_host_vendor	pc
_host_os	linux
_build	%{_host}
_build_cpu	%{_host_cpu}
_build_vendor	%{_host_vendor}
_build_os	%{_host_os}
_host_alias	
_build_alias	%{_host_alias}
_target_alias	%{_host_alias}
_target_vendor	%{_host_vendor}
_topdir	/home/builder/rpmbuild
_builddir	%{_topdir}/BUILD
_rpmdir	%{_topdir}/RPMS
_srcrpmdir	%{_topdir}/SRPMS
_specdir	%{_topdir}/SPECS
_sourcedir	%{_topdir}/SOURCES
_buildrootdir	%{_topdir}/BUILDROOT
buildroot	%{_buildrootdir}/%{NAME}-%{VERSION}-%{RELEASE}.%{_arch}
_tmppath	%{_var}/tmp
_usr	/usr
_usrsrc	%{_usr}/src
_var	/var
_prefix	/usr
_exec_prefix	%{_prefix}
_bindir	%{_exec_prefix}/bin
_sbindir	%{_exec_prefix}/sbin
_libexecdir	%{_exec_prefix}/libexec
_datarootdir	%{_prefix}/share
_datadir	%{_prefix}/share
_sysconfdir	/etc
_sharedstatedir	%{_prefix}/com
_localstatedir	/var
_rundir	/run
_lib	lib64
_libdir	%{_prefix}/%{_lib}
_includedir	%{_prefix}/include
_infodir	%{_datarootdir}/info
_mandir	%{_datarootdir}/man
_initddir	%{_sysconfdir}/init.d
_initrddir	%{_initddir}
_defaultdocdir	%{_datadir}/doc
_defaultlicensedir	%{_datadir}/licenses
_docdir	%{_defaultdocdir}
_licensedir	%{_defaultlicensedir}
_smp_build_ncpus	%{getncpus}
_smp_mflags	-j%{_smp_build_ncpus}
ix86	i386 i486 i586 i686 pentium3 pentium4 athlon geode
arm32	armv3l armv4b armv4l armv4tl armv5tl armv5tel armv5tejl armv6l armv6hl armv7l armv7hl armv7hnl armv8l armv8hl armv8hnl armv8hcnl
arm	%{arm32}
arm64	aarch64
mips32	mips mipsel mipsr6 mipsr6el
mips64	mips64 mips64el mips64r6 mips64r6el
mipseb	mips mipsr6 mips64 mips64r6
mipsel	mipsel mipsr6el mips64el mips64r6el
mips	%{mips32} %{mips64}
sparc	sparc sparcv8 sparcv9 sparcv9v sparc64 sparc64v
alpha	alpha alphaev56 alphaev6 alphaev67
power64	ppc64 ppc64p7 ppc64le
riscv32	riscv32
riscv64	riscv64
riscv128	riscv128
riscv	%{riscv32} %{riscv64} %{riscv128}
`

// archISA is what rpm's platform files say of an architecture: name and bits.
var archISA = map[string][2]string{
	"x86_64":      {"x86", "64"},
	"aarch64":     {"aarch", "64"},
	"i686":        {"x86", "32"},
	"armv7hl":     {"armv7hl", "32"},
	"ppc64le":     {"ppc", "64"},
	"s390x":       {"s390", "64"},
	"riscv64":     {"riscv", "64"},
	"loongarch64": {"loongarch", "64"},
}

// setArch defines the macros of the target architecture; what a macro file has
// set before stays.
func (m *Macros) setArch(arch string) {
	set := func(name, body string) {
		if !m.Defined(name) {
			m.push(&entry{name: name, body: body})
		}
	}
	m.push(&entry{name: "_target_cpu", body: arch})
	set("_arch", arch)
	set("_build_arch", arch)
	set("_host_cpu", arch)
	if isa, ok := archISA[arch]; ok {
		set("__isa_name", isa[0])
		set("__isa_bits", isa[1])
		set("__isa", "%{__isa_name}-%{__isa_bits}")
	}
}
