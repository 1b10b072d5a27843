package main

import (
	"slices"
	"strings"
	"testing"
)

// hostCtlCommands returns the arguments of each host-ctl in shell text, also of those
// in the words of other commands, such as ssh -o ProxyCommand='host-ctl ...'.
func hostCtlCommands(t *testing.T, text string) [][]string {
	t.Helper()
	var all [][]string
	for _, words := range simpleCommands(text) {
		for i, w := range words {
			if strings.Contains(w, "host-ctl ") && strings.ContainsAny(w, " ") {
				all = append(all, hostCtlCommands(t, strings.TrimPrefix(w, "ProxyCommand="))...)
			}
			if strings.HasSuffix(w, "/host-ctl") || w == "host-ctl" {
				before := words[:i]
				if i == 0 || slices.Contains([]string{"sudo", "exec", "time", "then", "do", "!", "run"}, before[i-1]) || strings.Contains(before[i-1], "=") {
					all = append(all, words[i+1:])
					break
				}
			}
		}
	}
	return all
}

// simpleCommands splits shell text into commands, and each into its words, without
// their quotes. It knows comments, quotes, line continuations, $(...), redirections
// and here-documents, the contents of which it leaves out.
func simpleCommands(text string) [][]string {
	var commands [][]string
	var words []string
	var word strings.Builder
	inWord := false
	endWord := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	hereDoc := ""
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			if i++; text[i] != '\n' {
				word.WriteByte(text[i])
				inWord = true
			}
		case c == '\'' || c == '"':
			end := i + 1
			for end < len(text) && text[end] != c {
				if c == '"' && text[end] == '\\' {
					end++
				}
				end++
			}
			quoted := text[i+1 : min(end, len(text))]
			word.WriteString(quoted)
			inWord, i = true, end
		case c == '$' && strings.HasPrefix(text[i:], "$("):
			end := i + strings.IndexByte(text[i:]+")", ')')
			commands = append(commands, substitutions(text[i:min(end+1, len(text))])...)
			word.WriteString("x")
			inWord, i = true, end
		case c == '#' && !inWord:
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case strings.HasPrefix(text[i:], "<<"):
			endWord()
			rest, _, _ := strings.Cut(text[i+2:], "\n")
			hereDoc = strings.Trim(strings.Fields(rest + " x")[0], `'"-`)
			i += 1 + len(strings.Fields(rest + " x")[0])
		case c == '<' || c == '>':
			if inWord && strings.Trim(word.String(), "0123456789") == "" {
				word.Reset()
				inWord = false
			}
			endWord()
			for i+1 < len(text) && strings.IndexByte("<>&| \t", text[i+1]) >= 0 {
				i++
			}
			for i+1 < len(text) && strings.IndexByte(" \t\n|&;", text[i+1]) < 0 {
				i++
			}
		case c == '\n':
			endCommand()
			if hereDoc != "" {
				end := strings.Index(text[i:]+"\n"+hereDoc+"\n", "\n"+hereDoc+"\n")
				i, hereDoc = i+end+len(hereDoc), ""
			}
		case c == '|' || c == '&' || c == ';' || c == '(' || c == ')' || c == '`':
			endCommand()
		case c == ' ' || c == '\t':
			endWord()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	endCommand()
	return commands
}

// substitutions returns the commands in the $(...) of a text.
func substitutions(text string) [][]string {
	var all [][]string
	for {
		_, rest, ok := strings.Cut(text, "$(")
		if !ok {
			return all
		}
		inner, after, _ := strings.Cut(rest, ")")
		all = append(all, simpleCommands(inner)...)
		text = after
	}
}

func TestSimpleCommands(t *testing.T) {
	got := hostCtlCommands(t, `host-ctl exec 3 -- sh -c 'echo hi; exit 7'   # comment host-ctl no
tar c . | sudo host-ctl exec -i "w b" tar x > out 2>&1 && A=1 host-ctl wait 3 \
  --timeout 1m & echo "$(host-ctl info web)"
cat <<EOF | host-ctl exec -i web cat
host-ctl not this
EOF
ssh -o ProxyCommand='host-ctl proxy web 22' web
echo host-ctl`)
	want := [][]string{{"exec", "3", "--", "sh", "-c", "echo hi; exit 7"}, {"exec", "-i", "w b", "tar", "x"}, {"wait", "3", "--timeout", "1m"},
		{"info", "web"}, {"exec", "-i", "web", "cat"}, {"proxy", "web", "22"}}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("%d: got %q, want %q", i, got[i], want[i])
		}
	}
}
