package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestVisible(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain text", "plain text"},
		{"größe 日本", "größe 日本"},
		{"a\nb\tc", "a\nb\tc"},
		{"\x1b]52;c;aGk=\a", `\x1b]52;c;aGk=\x07`},
		{"a\rb", `a\x0db`},
		{"\x7f", `\x7f`},
		{"\u0085\u009b31m", `\u0085\u009b31m`},
		{"\x9b31m", `\x9b31m`},
		{"abc\u202egpj.exe", `abc\u202egpj.exe`},
		{"\u2066x\u2069", `\u2066x\u2069`},
		{"\xff\xfe", `\xff\xfe`},
		{"\x00", `\x00`},
	}
	for _, tt := range tests {
		if got := visible(tt.in); got != tt.want {
			t.Errorf("visible(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := visibleLine("a\nb\tc"); got != `a\x0ab\x09c` {
		t.Errorf("visibleLine: %q", got)
	}
}

// harmful reports whether text holds what no text of a guest may bring to a
// terminal.
func harmful(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

func FuzzVisible(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[31m\u202e\xff\u0090")
	f.Fuzz(func(t *testing.T, s string) {
		if got := visible(s); harmful(got) {
			t.Errorf("visible(%q) = %q", s, got)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		safe := visibleJSON(data)
		if harmful(string(safe)) {
			t.Errorf("visibleJSON(%q) = %q", data, safe)
		}
		var was, is string
		if json.Unmarshal(data, &was) != nil || json.Unmarshal(safe, &is) != nil || was != is {
			t.Errorf("visibleJSON(%q) = %q, another value", data, safe)
		}
	})
}

func TestEscapeReader(t *testing.T) {
	tests := []struct {
		in, want string
		broken   bool
		did      string
	}{
		{"hello\r", "hello\r", false, ""},
		{"~.", "", true, ""},
		{"ls\r~.more", "ls\r", true, ""},
		{"ls\n~.", "ls\n", true, ""},
		{"a~.b", "a~.b", false, ""},
		{"~~.", "~.", false, ""},
		{"~x", "~x", false, ""},
		{"~\r~.", "~\r", true, ""},
		{"\r~", "\r~", false, ""},
		{"~", "~", false, ""},
		{"", "", false, ""},
		{"~?x", "x", false, "?"},
		{"a\r~?~\x1a~.", "a\r", true, "?z"},
		{"a~?", "a~?", false, ""},
		{"cooked\n~\x1a\n", "cooked\n~\x1a\n", false, ""},
	}
	for _, tt := range tests {
		for name, in := range map[string]io.Reader{
			"at once":    strings.NewReader(tt.in),
			"bytewise":   iotest.OneByteReader(strings.NewReader(tt.in)),
			"data + EOF": iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			broken, did := false, ""
			got, err := io.ReadAll(&escapeReader{r: in, raw: !strings.HasPrefix(tt.in, "cooked"), escapes: escapes{
				breakOff: func() { broken = true },
				suspend:  func() { did += "z" },
				help:     func() { did += "?" },
			}})
			if string(got) != tt.want || err != nil || broken != tt.broken || did != tt.did {
				t.Errorf("%q %s: got %q, %v, broken off %v, did %q; want %q, %v, %q", tt.in, name, got, err, broken, did, tt.want, tt.broken, tt.did)
			}
		}
	}
}

func TestExecArgs(t *testing.T) {
	t.Setenv(guestEnv, "fallback")
	tests := []struct {
		args   []string
		atDash int
		target string
		argv   []string
	}{
		{[]string{"3", "ls", "-l"}, -1, "3", []string{"ls", "-l"}},
		{[]string{"3", "--", "ls"}, -1, "3", []string{"ls"}},
		{[]string{"3", "--", "--", "x"}, -1, "3", []string{"--", "x"}},
		{[]string{"ls", "-l"}, 0, "fallback", []string{"ls", "-l"}},
		{[]string{"3"}, -1, "", nil},
		{[]string{"3", "--"}, -1, "", nil},
		{nil, -1, "", nil},
		{nil, 0, "", nil},
	}
	for _, tt := range tests {
		target, argv, err := execArgs(tt.args, tt.atDash)
		if target != tt.target || !cmp.Equal(argv, tt.argv) || (err == nil) != (tt.argv != nil) {
			t.Errorf("execArgs(%q, %d) = %q, %q, %v", tt.args, tt.atDash, target, argv, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]sizeFlag{"0": 0, "123": 123, "64K": 64 << 10, "1m": 1 << 20, "2G": 2 << 30, "1T": 1 << 40} {
		var f sizeFlag
		if err := f.Set(in); err != nil || f != want {
			t.Errorf("%q: %d, %v, want %d", in, f, err, want)
		}
	}
	for _, in := range []string{"", "K", "-1", "1.5M", "1KB", "99999999999999999999", "999999999999G"} {
		var f sizeFlag
		if f.Set(in) == nil {
			t.Errorf("%q is taken as %d", in, f)
		}
	}
	for in, want := range map[uint64]string{0: "0B", 1023: "1023B", 1024: "1.0K", 1536: "1.5K", 20 << 20: "20M", 1 << 63: "8.0E"} {
		if got := size(in); got != want {
			t.Errorf("size(%d) = %s, want %s", in, got, want)
		}
	}
}

func TestLastLines(t *testing.T) {
	tests := []struct {
		in   string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\nb\n", 5, "a\nb\n"},
		{"a\n", 0, ""}, {"", 3, ""}, {"\n\n", 1, "\n"}, {"abc", 1, "abc"},
	}
	for _, tt := range tests {
		for size := 1; size < 6; size++ {
			pieces := slices.Collect(slices.Chunk([]byte(tt.in), size))
			if got := bytes.Join(lastLines(pieces, tt.n), nil); string(got) != tt.want {
				t.Errorf("lastLines(%q in pieces of %d, %d) = %q, want %q", tt.in, size, tt.n, got, tt.want)
			}
		}
	}
}

func TestPrinter(t *testing.T) {
	var out bytes.Buffer
	l := &listing{format: "table"}
	p := l.printer(&out, "NAME", "VALUE")
	p.row("1", nil, "evil\x1b[2J\nname", "")
	p.row("2", nil, "b", "long value")
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if harmful(out.String()) || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("got %q", out.String())
	}
}

func TestAccessLine(t *testing.T) {
	for want, got := range map[string]string{
		"level peer": accessLine("peer", "", nil, "", false),
		"level keys, key K, roles a b, policy /p":             accessLine("keys", "K", []string{"a", "b"}, "/p", false),
		"level keys, policy /p (audit only: refuses nothing)": accessLine("keys", "", nil, "/p", true),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestKernelBuilt(t *testing.T) {
	for version, want := range map[string]string{
		"#1 SMP PREEMPT_DYNAMIC Debian 6.1.148-1 (2025-08-26)\n": "2025-08-26",
		"#26~22.04.1-Ubuntu SMP Thu Jul 11 22:33:04 UTC 2026\n":  "2026-07-11",
		"#1 SMP PREEMPT Tue Feb  3 10:00:00 CET 2026":            "2026-02-03",
		"#1 SMP PREEMPT_DYNAMIC Fri, 29 May 2026 08:00:00 +0000": "",
		"#1": "", "": "", "#1 SMP Mon Xxx 99 10:00:00 UTC 2026": "", "#1 SMP (2026-99-99)": "",
	} {
		day, ok := kernelBuilt(version)
		if ok != (want != "") || ok && day.Format(time.DateOnly) != want {
			t.Errorf("%q: %v, %t; want %q", version, day, ok, want)
		}
	}
}

// TestEarlySignal shows that a signal which comes just as the command has begun is
// not lost between who waits for it before and after.
func TestEarlySignal(t *testing.T) {
	for range 1000 {
		signals := make(chan os.Signal, 1)
		canceled := make(chan os.Signal, 1)
		e := watchEarly(signals, func(sig os.Signal) { canceled <- sig })
		go func() { signals <- os.Interrupt }()
		if sig := e.end(); sig == nil {
			<-signals // for who comes after, or this hangs
			continue
		} else if sig != os.Interrupt || <-canceled != os.Interrupt {
			t.Fatalf("end returned %v", sig)
		}
	}
}
