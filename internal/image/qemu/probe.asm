# Boot sector: 16-bit -> 32-bit (x87) -> 64-bit with paging (SSE), then writes 0x10 to port 0xf4.
.code16
.globl _start
_start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7c00,%sp
  # page tables at 0x1000..0x3fff: identity map of the first 2 MiB
  cld
  movw $0x1000,%di
  movw $0x3000/2,%cx
  rep stosw
  movw $0x2003,0x1000
  movw $0x3003,0x2000
  movw $0x0083,0x3000
  lgdtl gdtr
  movl %cr0,%eax
  orb $1,%al
  movl %eax,%cr0
  ljmp $8,$prot
.code32
prot:
  movw $16,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  fninit
  fwait
  movl $0x620,%eax        # CR4: PAE, OSFXSR, OSXMMEXCPT
  movl %eax,%cr4
  movl $0x1000,%eax
  movl %eax,%cr3
  movl $0xc0000080,%ecx   # EFER.LME
  rdmsr
  orl $0x100,%eax
  wrmsr
  movl %cr0,%eax
  andb $0xfb,%al          # no FPU emulation
  orl $0x80000002,%eax    # PG, MP
  movl %eax,%cr0
  ljmp $24,$long
.code64
long:
  xorl %eax,%eax
  cpuid
  movq %rsp,%xmm0
  movq %xmm0,%rbx
  movb $0x10,%al
  outb %al,$0xf4
1: hlt
  jmp 1b
.p2align 3
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff
  .quad 0x00cf92000000ffff
  .quad 0x00af9a000000ffff
gdtr:
  .word gdtr-gdt-1
  .long gdt
.org 510
.word 0xaa55
