package main

import (
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/vsockrpc/vsockrpc/guest"
)

// limitFlags are the flags that bound what a command may use.
type limitFlags struct {
	memory    sizeFlag
	processes uint64
	cpus      float64
	ulimits   []string
	nice      int32
	umask     string
	noNewPriv bool
	capDrop   []string
	set       *pflag.FlagSet
}

func (f *limitFlags) add(flags *pflag.FlagSet) {
	f.set = flags
	flags.Var(&f.memory, "memory", "limit on memory, such as 512M")
	flags.Uint64Var(&f.processes, "pids", 0, "limit on processes")
	flags.Float64Var(&f.cpus, "cpus", 0, "limit on CPU time, in CPUs, such as 1.5")
	flags.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit NAME=SOFT[:HARD], such as nofile=1024:4096")
	flags.Int32Var(&f.nice, "nice", 0, "scheduling priority, -20 to 19")
	flags.StringVar(&f.umask, "umask", "", "file mode creation mask, octal (default 022)")
	flags.BoolVar(&f.noNewPriv, "no-new-privileges", false, "no privileges are gained by executing a program")
	flags.StringArrayVar(&f.capDrop, "cap-drop", nil, "take a capability away, such as CAP_NET_RAW")
}

// resourceLimits returns what the flags say.
func (f *limitFlags) resourceLimits() (*guest.Limits, error) {
	l := &guest.Limits{NoNewPrivileges: f.noNewPriv, DropCapabilities: f.capDrop}
	if f.memory > 0 {
		l.Memory = uint64(f.memory)
	}
	if f.processes > 0 {
		l.Processes = f.processes
	}
	switch {
	case f.cpus < 0 || math.IsNaN(f.cpus) || f.cpus > 1e6:
		return nil, usageError{fmt.Errorf("--cpus %v is out of range", f.cpus)}
	case f.cpus > 0:
		l.CPUs = f.cpus
	}
	for _, s := range f.ulimits {
		r, err := parseUlimit(s)
		if err != nil {
			return nil, usageError{fmt.Errorf("--ulimit %q: %w", s, err)}
		}
		l.Rlimits = append(l.Rlimits, r)
	}
	if f.set.Changed("nice") {
		if f.nice < -20 || f.nice > 19 {
			return nil, usageError{fmt.Errorf("--nice %d: want -20 to 19", f.nice)}
		}
		l.Nice = new(int(f.nice))
	}
	if f.umask != "" {
		mask, err := strconv.ParseUint(f.umask, 8, 32)
		if err != nil || mask > 0o777 {
			return nil, usageError{fmt.Errorf("--umask %q: want an octal number up to 777", f.umask)}
		}
		l.Umask = new(fs.FileMode(mask))
	}
	return l, nil
}

func parseUlimit(s string) (r guest.Rlimit, err error) {
	name, values, ok := strings.Cut(s, "=")
	soft, hard, two := strings.Cut(values, ":")
	if !ok || name == "" || soft == "" {
		return r, fmt.Errorf("want NAME=SOFT[:HARD]")
	}
	if !two {
		hard = soft
	}
	r.Name = name
	for _, v := range []struct {
		text string
		to   *uint64
	}{{soft, &r.Soft}, {hard, &r.Hard}} {
		if v.text == "unlimited" || v.text == "-1" {
			*v.to = guest.Unlimited
			continue
		}
		n, err := strconv.ParseUint(v.text, 10, 64)
		if err != nil {
			return r, fmt.Errorf("%q is no number", v.text)
		}
		*v.to = n
	}
	return r, nil
}

// sizeFlag is a number of bytes, with K, M, G or T for powers of 1024.
type sizeFlag uint64

var _ pflag.Value = (*sizeFlag)(nil)

// Set implements pflag.Value.
func (f *sizeFlag) Set(s string) error {
	digits, shift := s, 0
	if i := strings.IndexByte("KMGT", upper(s)); i >= 0 && s != "" {
		digits, shift = s[:len(s)-1], 10*(i+1)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return fmt.Errorf("want a number of bytes, such as 65536, 64K or 1M")
	}
	*f = sizeFlag(n << shift)
	return nil
}

// upper returns the last byte of s in upper case, or 0.
func upper(s string) byte {
	if s == "" {
		return 0
	}
	return strings.ToUpper(s[len(s)-1:])[0]
}

// String implements pflag.Value.
func (f *sizeFlag) String() string {
	if *f == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*f), 10)
}

// Type implements pflag.Value.
func (f *sizeFlag) Type() string { return "size" }
