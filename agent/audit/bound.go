package audit

import (
	"encoding/json"
	"strings"
)

// MaxLine bounds a record with its newline, in bytes, whatever the call was about.
const MaxLine = 64 << 10

// bounds are what a record takes over of a request. The first that make a line of
// at most MaxLine bytes are used; the last always do.
var bounds = []struct{ words, word int }{{64, 512}, {32, 256}, {16, 128}, {8, 64}}

// window is how much of a word is looked at for secrets: more than is shown, so
// that what is shown does not end within a secret that was not recognized.
const window = 1024

// line returns the record as a line of JSON, bounded and without what looks like
// a secret. Its cost is bounded by the first of bounds, not by the request.
func (r Record) line() ([]byte, error) {
	most := bounds[0]
	r.Args = redactWindows(cut(r.Args, most.words))
	r.Env, r.Paths = cut(r.Env, most.words), cut(r.Paths, most.words)
	for _, b := range bounds {
		c := r
		c.Args, c.Env, c.Paths = clip(r.Args, b.words, b.word), clip(r.Env, b.words, b.word), clip(r.Paths, b.words, b.word)
		for _, s := range []*string{&c.User, &c.Address, &c.Method, &c.Name, &c.Session, &c.SessionName, &c.Key, &c.Rule, &c.Policy, &c.Call, &c.Reason, &c.Detail} {
			*s = clipWord(*s, b.word)
		}
		line, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		if len(line) < MaxLine {
			return append(line, '\n'), nil
		}
	}
	panic("audit: the smallest record is too long") // it has 27 words and 12 texts of 67 bytes
}

// cut returns the first words of a list, and one that says so if there are more.
func cut(words []string, n int) []string {
	if len(words) <= n {
		return words
	}
	return append(words[:n:n], "...")
}

// clip bounds a list of words and their lengths, and says that it did.
func clip(words []string, n, length int) []string {
	if words == nil {
		return nil
	}
	out := make([]string, 0, min(len(words), n+1))
	for _, w := range cut(words, n) {
		out = append(out, clipWord(w, length))
	}
	return out
}

func clipWord(w string, n int) string {
	if len(w) > n {
		return w[:n] + "..."
	}
	return w
}

// redactWindows redacts the beginnings of words.
func redactWindows(args []string) []string {
	short := make([]string, len(args))
	for i, a := range args {
		short[i] = a[:min(len(a), window)]
	}
	out := Redact(short)
	for i := range out {
		if len(args[i]) > window && len(out[i]) <= bounds[0].word {
			// Redacting has moved the end of the window to where it is shown: its
			// last word may be a part of a secret.
			out[i] = out[i][:strings.LastIndexAny(out[i], " \t\n")+1] + "..."
		}
	}
	return out
}
