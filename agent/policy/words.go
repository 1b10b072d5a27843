package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// CallUsage says what ParseCall takes.
const CallUsage = `  exec [-u USER] [-e NAME[=VALUE]]... [-w DIR] [-l LIMIT]... ARG...
                                      start a program, in a directory, with limits
  shell [-u USER]                     start a login shell
  read [-u USER] PATH...              read files, and what is beneath
  write [-u USER] PATH...             write files
  connect [NETWORK:]ADDRESS           connect from inside the guest, such as tcp:127.0.0.1:80
  listen [NETWORK:]ADDRESS            listen inside the guest
  SERVICE/METHOD                      any method, such as ProcessService/Signal`

// ParseCall makes a call of words for people, as CallUsage describes them.
func ParseCall(words []string) (Call, error) {
	if len(words) == 0 {
		return Call{}, errors.New("no call")
	}
	verb, words := words[0], words[1:]
	if service, method, ok := strings.Cut(verb, "/"); ok {
		if service == "" || method == "" || len(words) > 0 {
			return Call{}, fmt.Errorf("call %q: want SERVICE/METHOD and nothing more", verb)
		}
		if strings.Contains(service, ".") {
			return Call{Method: "/" + verb}, nil
		}
		full := "/guest.v1." + verb
		if !access.Decided(full) {
			return Call{}, fmt.Errorf("call %q: the agent has no such method; of another program's service, give the package too", verb)
		}
		return Call{Method: full}, nil
	}
	var c Call
	var err error
	if words, err = c.options(words); err != nil {
		return Call{}, err
	}
	switch verb {
	case "exec", "shell":
		c.about(guestv1.ProcessService_Exec_FullMethodName)
		c.Args, c.LoginShell = words, verb == "shell"
		if verb == "exec" && len(words) == 0 {
			return Call{}, errors.New("exec: no program")
		}
		return c, nil
	case "read":
		c.about(guestv1.FileService_Download_FullMethodName)
		c.Reads = words
	case "write":
		c.about(guestv1.FileService_Upload_FullMethodName)
		c.Writes = words
	case "connect", "listen":
		if len(words) != 1 {
			return Call{}, fmt.Errorf("%s: want one address", verb)
		}
		c.about(guestv1.ForwardService_Dial_FullMethodName)
		if verb == "listen" {
			c = Call{}
			c.about(guestv1.ForwardService_Listen_FullMethodName)
		}
		c.Network, c.Address = splitNetwork(words[0])
	default:
		return Call{}, fmt.Errorf("call %q is none of\n%s", verb, CallUsage)
	}
	if len(words) == 0 {
		return Call{}, fmt.Errorf("%s: no path", verb)
	}
	return c, nil
}

// about makes c a call of a method, as far as that does not depend on a request.
func (c *Call) about(method string) {
	if p := plans()[method]; p != nil {
		a := p.always
		c.Subject, c.Program, c.Files, c.ReadsBelow, c.WritesBelow = a.Subject, a.Program, a.Files, a.ReadsBelow, a.WritesBelow
		c.Dial, c.Listen, c.Accept = a.Dial, a.Listen, a.Accept
	}
	c.Method = method
}

// options takes options off the words of a call.
func (c *Call) options(words []string) ([]string, error) {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		option := words[0]
		words = words[1:]
		if option == "--" {
			break
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("%s: no value", option)
		}
		switch option {
		case "-u":
			c.User = words[0]
		case "-e":
			c.Env = append(c.Env, words[0])
		case "-w":
			c.Dir = words[0]
		case "-l":
			c.Limits = append(c.Limits, words[0])
		default:
			return nil, fmt.Errorf("unknown option %s: want -u USER, -e NAME[=VALUE], -w DIR or -l LIMIT", option)
		}
		words = words[1:]
	}
	return words, nil
}

// splitNetwork splits the network off an address; without one it is tcp, or unix
// for a path.
func splitNetwork(s string) (network, address string) {
	switch network, address, ok := strings.Cut(s, ":"); {
	case strings.HasPrefix(s, "/"):
		return "unix", s
	case ok && (network == "tcp" || network == "udp" || network == "unix" || network == "unixgram"):
		return network, address
	}
	return "tcp", s
}

// Request returns the call as AccessService asks about it.
func (c Call) Request() *guestv1.ExplainRequest {
	return &guestv1.ExplainRequest{
		Method: c.Method, Args: byteses(c.Args), Env: c.Env, ClearEnv: c.ClearEnv, LoginShell: c.LoginShell,
		Dir: []byte(c.Dir), Umask: c.Umask, Limits: c.Limits,
		User: []byte(c.User), Group: []byte(c.Group), Reads: byteses(c.Reads), Writes: byteses(c.Writes),
		Network: c.Network, Address: []byte(c.Address),
	}
}

// FromRequest returns the call that AccessService is asked about.
func FromRequest(r *guestv1.ExplainRequest) Call {
	c := Call{
		Args: texts(r.GetArgs()), Env: r.GetEnv(), ClearEnv: r.GetClearEnv(), LoginShell: r.GetLoginShell(),
		Dir: string(r.GetDir()), Umask: r.Umask, Limits: r.GetLimits(),
		User: string(r.GetUser()), Group: string(r.GetGroup()), Reads: texts(r.GetReads()), Writes: texts(r.GetWrites()),
		Network: r.GetNetwork(), Address: string(r.GetAddress()),
	}
	c.about(r.GetMethod())
	return c
}

func texts(b [][]byte) []string {
	out := make([]string, len(b))
	for i := range b {
		out[i] = string(b[i])
	}
	return out
}

func byteses(s []string) [][]byte {
	out := make([][]byte, len(s))
	for i := range s {
		out[i] = []byte(s[i])
	}
	return out
}
