package archive

import "io/fs"

// The types of files in st_mode, with Linux's numbers.
const (
	modeType    = 0o170000
	modeSocket  = 0o140000
	modeLink    = 0o120000
	modeRegular = 0o100000
	modeBlock   = 0o060000
	modeDir     = 0o040000
	modeChar    = 0o020000
	modeFIFO    = 0o010000
	modeSetuid  = 0o4000
	modeSetgid  = 0o2000
	modeSticky  = 0o1000
)

// LinuxMode returns m as st_mode has it in Linux.
func LinuxMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	switch {
	case m&fs.ModeDir != 0:
		mode |= modeDir
	case m&fs.ModeSymlink != 0:
		mode |= modeLink
	case m&fs.ModeNamedPipe != 0:
		mode |= modeFIFO
	case m&fs.ModeSocket != 0:
		mode |= modeSocket
	case m&fs.ModeCharDevice != 0:
		mode |= modeChar
	case m&fs.ModeDevice != 0:
		mode |= modeBlock
	case m&fs.ModeIrregular == 0:
		mode |= modeRegular
	}
	for _, b := range special {
		if m&b.mode != 0 {
			mode |= b.linux
		}
	}
	return mode
}

var special = []struct {
	mode  fs.FileMode
	linux uint32
}{{fs.ModeSetuid, modeSetuid}, {fs.ModeSetgid, modeSetgid}, {fs.ModeSticky, modeSticky}}

// FileMode returns what an st_mode of Linux means.
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & modeType {
	case modeDir:
		m |= fs.ModeDir
	case modeLink:
		m |= fs.ModeSymlink
	case modeFIFO:
		m |= fs.ModeNamedPipe
	case modeSocket:
		m |= fs.ModeSocket
	case modeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case modeBlock:
		m |= fs.ModeDevice
	case modeRegular, 0:
	default:
		m |= fs.ModeIrregular
	}
	for _, b := range special {
		if mode&b.linux != 0 {
			m |= b.mode
		}
	}
	return m
}
