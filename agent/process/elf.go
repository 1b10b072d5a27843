//go:build linux

package process

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// elfMagic is what an ELF file begins with.
const elfMagic = "\x7fELF"

// elfFile is what an error says of an ELF file.
type elfFile struct {
	machine string // such as "AArch64"; one without a name here has its number
	loader  string // what PT_INTERP names; empty if there is none
}

// machines are the processors that guests have, by e_machine of elf(5).
var machines = map[uint16]string{3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch"}

// maxSegments is how many program headers are looked at. Any user may have
// written the file, so no more of it is read than an error needs: debug/elf would
// read its tables whole.
const maxSegments = 64

// readELF reads the headers of an ELF file; ok is false if it is none, or damaged.
func readELF(name string) (f elfFile, ok bool) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return f, false
	}
	defer file.Close()
	h := make([]byte, 64)
	if n, _ := file.ReadAt(h, 0); n < 52 || !bytes.HasPrefix(h, []byte(elfMagic)) {
		return f, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if h[5] == 2 {
		order = binary.BigEndian
	}
	number := order.Uint16(h[18:])
	if f.machine = machines[number]; f.machine == "" {
		f.machine = fmt.Sprintf("ELF machine %d", number)
	}
	var offset uint64
	var size, count int
	switch h[4] {
	case 1:
		offset, size, count = uint64(order.Uint32(h[28:])), int(order.Uint16(h[42:])), int(order.Uint16(h[44:]))
	case 2:
		offset, size, count = order.Uint64(h[32:]), int(order.Uint16(h[54:])), int(order.Uint16(h[56:]))
	default:
		return f, false
	}
	f.loader = loader(file, order, h[4] == 2, offset, size, min(count, maxSegments))
	return f, true
}

// loader returns what the program header PT_INTERP names.
func loader(file io.ReaderAt, order binary.ByteOrder, wide bool, offset uint64, size, count int) string {
	const interp = 3
	need := 32
	if wide {
		need = 56
	}
	if size < need || offset > 1<<40 {
		return ""
	}
	h := make([]byte, need)
	for i := range count {
		if _, err := file.ReadAt(h, int64(offset)+int64(i*size)); err != nil {
			return ""
		}
		if order.Uint32(h) != interp {
			continue
		}
		at, length := uint64(order.Uint32(h[4:])), uint64(order.Uint32(h[16:]))
		if wide {
			at, length = order.Uint64(h[8:]), order.Uint64(h[32:])
		}
		if at > 1<<40 || length > unix.PathMax {
			return ""
		}
		name := make([]byte, length)
		if _, err := file.ReadAt(name, int64(at)); err != nil {
			return ""
		}
		return string(bytes.TrimRight(name, "\x00"))
	}
	return ""
}
