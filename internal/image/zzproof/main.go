package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"slipway/internal/image"
	"slipway/internal/image/verity"
)

func main() {
	d := os.Args[1]
	h, err := verity.ParseRootHash(os.Args[2])
	if err != nil {
		panic(err)
	}
	e := "/tmp/w/sdk/usr/lib/systemd/boot/efi/"
	t0 := time.Now()
	r, err := image.Assemble(context.Background(), image.Inputs{
		Arch: image.X86_64, Layout: image.Layout{ESPSizeMiB: 128, RootSizeMiB: 512, HashSizeMiB: 16, DataSizeMiB: 256, Slots: 2},
		Name: "trial", Version: "0.1.0", Tries: 3,
		Root: d + "/root.erofs", Hash: d + "/root.verity", RootHash: h, RootType: "erofs",
		Kernel: "/tmp/w/out/bzImage", OSRelease: d + "/tree/usr/lib/os-release", Uname: "6.1.176",
		Stub: e + "linuxx64.efi.stub", BootLoader: e + "systemd-bootx64.efi",
		KernelParameters: []string{"console=ttyS0,115200", "init=/init", "panic=-1"}, OnCorruption: image.PanicOnCorruption,
		Time: time.Unix(1700000000, 0),
	}, os.Args[3])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(time.Since(t0), r.Size, r.Allocated, r.UKI)
	fmt.Println(r.Cmdline)
}
