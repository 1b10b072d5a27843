package launch

import (
	"strconv"
	"syscall"
)

// Order is what a launcher is told.
type Order struct {
	// Paths are the files to execute, tried in turn as execvp(3) does. Those that
	// are relative are so to the working directory.
	Paths []string
	// Name, if not empty, is what Paths are made of, with the directories of
	// Search: those that are no programs are passed over.
	Name, Search string
	Argv         []string
	Env          []string
	// Dir is the working directory. If Home is set and it cannot be entered, / is.
	Dir  string
	Home bool
	// Switch has it take the ids and groups.
	Switch   bool
	UID, GID uint32
	Groups   []uint32

	Rlimits      []Rlimit
	Nice         *int
	Umask        int
	NoNewPrivs   bool
	Capabilities []int // to drop
}

// Rlimit is one resource limit.
type Rlimit struct {
	Name       string
	Number     int
	Soft, Hard uint64
}

// Encode returns the order as a launcher reads it.
func (o *Order) Encode() []byte {
	var e encoder
	e.strings(o.Paths)
	e.string(o.Name)
	e.string(o.Search)
	e.strings(o.Argv)
	e.strings(o.Env)
	e.string(o.Dir)
	e.bool(o.Home)
	e.bool(o.Switch)
	e.number(uint64(o.UID))
	e.number(uint64(o.GID))
	e.number(uint64(len(o.Groups)))
	for _, g := range o.Groups {
		e.number(uint64(g))
	}
	e.number(uint64(len(o.Rlimits)))
	for _, l := range o.Rlimits {
		e.string(l.Name)
		e.number(uint64(l.Number))
		e.number(l.Soft)
		e.number(l.Hard)
	}
	e.bool(o.Nice != nil)
	if o.Nice != nil {
		e.number(uint64(int64(*o.Nice)))
	}
	e.number(uint64(o.Umask))
	e.bool(o.NoNewPrivs)
	e.number(uint64(len(o.Capabilities)))
	for _, c := range o.Capabilities {
		e.number(uint64(c))
	}
	return e.b
}

// decode is the reverse of Encode.
func decode(b []byte) (o Order, ok bool) {
	d := decoder{b: b}
	o.Paths, o.Name, o.Search = d.strings(), d.string(), d.string()
	o.Argv, o.Env = d.strings(), d.strings()
	o.Dir, o.Home, o.Switch = d.string(), d.bool(), d.bool()
	o.UID, o.GID = uint32(d.number()), uint32(d.number())
	for range d.count() {
		o.Groups = append(o.Groups, uint32(d.number()))
	}
	for range d.count() {
		o.Rlimits = append(o.Rlimits, Rlimit{d.string(), int(d.number()), d.number(), d.number()})
	}
	if d.bool() {
		o.Nice = new(int(int64(d.number())))
	}
	o.Umask, o.NoNewPrivs = int(d.number()), d.bool()
	for range d.count() {
		o.Capabilities = append(o.Capabilities, int(d.number()))
	}
	return o, !d.bad && len(d.b) == 0
}

// A number is written in decimal and ends with a blank, a string is its length and
// its bytes.
type encoder struct{ b []byte }

func (e *encoder) number(n uint64) { e.b = append(strconv.AppendUint(e.b, n, 10), ' ') }

func (e *encoder) bool(v bool) {
	if v {
		e.number(1)
	} else {
		e.number(0)
	}
}

func (e *encoder) string(s string) {
	e.number(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) strings(list []string) {
	e.number(uint64(len(list)))
	for _, s := range list {
		e.string(s)
	}
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() uint64 {
	for i, c := range d.b {
		if c != ' ' {
			continue
		}
		n, err := strconv.ParseUint(string(d.b[:i]), 10, 64)
		d.b, d.bad = d.b[i+1:], d.bad || err != nil
		return n
	}
	d.b, d.bad = nil, true
	return 0
}

// count is a number of things, each of which takes at least a byte.
func (d *decoder) count() int {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) bool() bool { return d.number() != 0 }

func (d *decoder) string() string {
	n := d.count()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) strings() []string {
	list := make([]string, 0, d.count())
	for range cap(list) {
		list = append(list, d.string())
	}
	return list
}

// readAll reads a file from its beginning.
func readAll(fd int) ([]byte, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, err
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		k, err := syscall.Pread(fd, b[n:], int64(n))
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil, err
		case k == 0:
			return b[:n], nil
		default:
			n += k
		}
	}
	return b, nil
}
