package transport

import "testing"

// TestStartsAnswer: a VMM's answer is looked at byte by byte, so that whatever is none
// ends the dial at its first wrong byte.
func TestStartsAnswer(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "O": true, "OK": true, "OK ": true, "OK 1": true, "OK 1073741824": true,
		"K": false, "ok ": false, "OK1": false, "OK x": false, "OK 1x": false, "OK  1": false, "NO 1": false, "HTTP1": false,
	} {
		if got := startsAnswer(text); got != want {
			t.Errorf("%q starts an answer: %t", text, got)
		}
	}
	for line, want := range map[string]uint32{"OK 0\n": 0, "OK 4294967295\n": 1<<32 - 1} {
		if n, err := parseAnswer(line); err != nil || n != want {
			t.Errorf("%q: %d, %v", line, n, err)
		}
	}
	for _, line := range []string{"", "\n", "OK \n", "OK 4294967296\n", "OK -1\n", "5\n", "OK 5 \n", "no 5\n"} {
		if n, err := parseAnswer(line); err == nil {
			t.Errorf("%q: %d, no error", line, n)
		}
	}
}
