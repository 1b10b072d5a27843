package system

import (
	"strings"
	"testing"
)

// FuzzParseKernelArgs: whatever the boot loader passes, a word is never longer than
// what it was made of, and where there are no quotes the words are those between
// spaces.
func FuzzParseKernelArgs(f *testing.F) {
	for _, line := range []string{"", "quiet root=/dev/vda ro", `a="b c" "d=e f"`, `a="b`, `"`, "=", "a= -- init", "a==b", "\t\n x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := ParseKernelArgs(line)
		n := 0
		for _, a := range args {
			n += len(a.Name) + len(a.Value)
		}
		if n > len(line) {
			t.Errorf("%d bytes of %d", n, len(line))
		}
		if strings.Contains(line, `"`) {
			return
		}
		before, _, _ := strings.Cut(" "+strings.NewReplacer("\t", " ", "\n", " ").Replace(line)+" ", " -- ")
		want := strings.FieldsFunc(before, func(r rune) bool { return r == ' ' })
		if len(args) != len(want) {
			t.Fatalf("%q: %d words, want %d", line, len(args), len(want))
		}
		for i, a := range args {
			if got := a.Name + "=" + a.Value; got != want[i] && got != want[i]+"=" {
				t.Errorf("%q: %q, want %q", line, got, want[i])
			}
		}
	})
}
