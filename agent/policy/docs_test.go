package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

var update = flag.Bool("update", false, "write the table of methods into docs/security.md")

// ruleWords are the words of a rule that decide on a field with such a look.
var ruleWords = map[guestv1.Look]string{
	guestv1.Look_LOOK_USER: "`users`", guestv1.Look_LOOK_GROUP: "`groups`",
	guestv1.Look_LOOK_READ: "`read`", guestv1.Look_LOOK_READ_TREE: "`read` with all beneath",
	guestv1.Look_LOOK_WRITE: "`write`", guestv1.Look_LOOK_NAMES: "`write`", guestv1.Look_LOOK_LINK_TARGET: "`write`", guestv1.Look_LOOK_WRITE_TREE: "`write` with all beneath",
	guestv1.Look_LOOK_READ_OR_WRITE: "`read` or `write`", guestv1.Look_LOOK_RECURSIVE: "with all beneath if recursive",
	guestv1.Look_LOOK_ARGUMENTS: "`args`", guestv1.Look_LOOK_ENVIRONMENT: "`env`", guestv1.Look_LOOK_DIRECTORY: "`dir`",
	guestv1.Look_LOOK_UMASK: "`umask`", guestv1.Look_LOOK_LIMIT: "`limits`", guestv1.Look_LOOK_SESSION_ID: "whose session",
	guestv1.Look_LOOK_ROLE: "observers only read", guestv1.Look_LOOK_CONNECT_ADDRESS: "`dial`", guestv1.Look_LOOK_LISTEN_ADDRESS: "`listen`", guestv1.Look_LOOK_LISTENED: "`listen`",
}

// methodTable returns the table of docs/security.md.
func methodTable() string {
	var rows []string
	for name, m := range declare.Methods() {
		p := plans()[name]
		var words []string
		add := func(look guestv1.Look) {
			if word := ruleWords[look]; word != "" && !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
		var walk func(steps []step)
		walk = func(steps []step) {
			for _, s := range steps {
				if s.look != guestv1.Look_LOOK_ROLE || p.mayRead {
					add(s.look)
				}
				walk(s.members)
			}
		}
		walk(p.steps)
		if p.always.Accept {
			add(guestv1.Look_LOOK_LISTENED)
		}
		looks := strings.Join(words, ", ")
		if looks == "" {
			looks = "the method alone"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %d | %s |\n", short(name), access.ClassOf(name), declare.Of(m).GetSince(), looks))
	}
	slices.Sort(rows)
	return "| method | class | since | a policy looks at |\n|---|---|---|---|\n" + strings.Join(rows, "")
}

// TestDocumentedMethods compares the table of methods with the descriptors. With
// -update it writes it.
func TestDocumentedMethods(t *testing.T) {
	const begin, end = "<!-- methods: go test ./agent/policy -run TestDocumentedMethods -update -->\n", "<!-- end of methods -->"
	file := filepath.Join("..", "..", "docs", "security.md")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/security.md has no table of methods")
	}
	want := methodTable()
	if table == want {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table of methods is not that of the .proto files: run go test ./agent/policy -run TestDocumentedMethods -update\n%s", want)
}
