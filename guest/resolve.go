package guest

import (
	"fmt"
	"strings"

	"github.com/vsockrpc/vsockrpc/internal/spelling"
	"github.com/vsockrpc/vsockrpc/transport"
)

// SplitUser splits USER@TARGET. Without a user, user is empty.
func SplitUser(target string) (user, rest string) {
	user, rest, ok := strings.Cut(target, "@")
	if !ok || user == "" || rest == "" || strings.ContainsAny(user, "/:") {
		return "", target
	}
	return user, rest
}

// Resolve returns the address that a target of Dial stands for, and the user that
// the target or the configuration file gives for it. A nil file means the user's
// own, which is read only if the target is a name.
func Resolve(target string, file *ConfigFile) (transport.Addr, string, error) {
	user, target := SplitUser(target)
	if checkName(target) != nil {
		addr, err := parseTarget(target, 0)
		return addr, user, err
	}
	if file == nil {
		var err error
		if file, err = ReadConfigFile(""); err != nil {
			return transport.Addr{}, "", err
		}
	}
	e, ok := file.Lookup(target)
	if !ok {
		return transport.Addr{}, "", fmt.Errorf("no guest is called %q: %sgive an address such as 3, vsock:3:1000, vsock-mux:/path:1000 or unix:/path, or name it in the configuration file",
			target, didYouMean(target, file.Names()))
	}
	if user == "" {
		user = e.User
	}
	addr, err := parseTarget(e.Target, e.Port)
	return addr, user, err
}

// didYouMean asks for the names that differ from the one given by a slip or two.
func didYouMean(name string, names []string) string {
	var near []string
	for _, n := range names {
		if spelling.Distance(strings.ToLower(name), strings.ToLower(n)) <= min(2, (len(n)+1)/2) {
			near = append(near, n)
		}
	}
	if len(near) == 0 || len(near) > 3 {
		return ""
	}
	return "did you mean " + strings.Join(near, " or ") + "? Else "
}
