package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// CallUsage says what ParseCall takes.
const CallUsage = `  exec [-u USER] [-e NAME]... ARG...  start a program
  shell [-u USER]                     start a login shell
  read [-u USER] PATH...              read files
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
		c.Method, c.Program, c.Subject = guestv1.ProcessService_Exec_FullMethodName, true, true
		c.Args, c.LoginShell = words, verb == "shell"
		c.relative()
		if verb == "exec" && len(words) == 0 {
			return Call{}, errors.New("exec: no program")
		}
		return c, nil
	case "read":
		c.Method, c.Files, c.Subject, c.Reads = guestv1.FileService_Download_FullMethodName, true, true, words
	case "write":
		c.Method, c.Files, c.Subject, c.Writes = guestv1.FileService_Upload_FullMethodName, true, true, words
	case "connect", "listen":
		if len(words) != 1 {
			return Call{}, fmt.Errorf("%s: want one address", verb)
		}
		c.Network, c.Address = splitNetwork(words[0])
		c.Dial, c.Listen = verb == "connect", verb == "listen"
		c.Method = guestv1.ForwardService_Dial_FullMethodName
		if c.Listen {
			c.Method = guestv1.ForwardService_Listen_FullMethodName
		}
	default:
		return Call{}, fmt.Errorf("call %q is none of\n%s", verb, CallUsage)
	}
	if len(words) == 0 {
		return Call{}, fmt.Errorf("%s: no path", verb)
	}
	return c, nil
}

// options takes -u and -e off the words of a call.
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
			name, _, _ := strings.Cut(words[0], "=")
			c.Env = append(c.Env, name)
		default:
			return nil, fmt.Errorf("unknown option %s: want -u USER or -e NAME", option)
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
		Method: c.Method, Args: byteses(c.Args), Env: c.Env, LoginShell: c.LoginShell,
		User: []byte(c.User), Group: []byte(c.Group), Reads: byteses(c.Reads), Writes: byteses(c.Writes),
		Network: c.Network, Address: []byte(c.Address),
	}
}

// FromRequest returns the call that AccessService is asked about.
func FromRequest(r *guestv1.ExplainRequest) Call {
	c := Call{
		Method: r.GetMethod(), Args: texts(r.GetArgs()), Env: r.GetEnv(), LoginShell: r.GetLoginShell(),
		User: string(r.GetUser()), Group: string(r.GetGroup()), Reads: texts(r.GetReads()), Writes: texts(r.GetWrites()),
		Network: r.GetNetwork(), Address: string(r.GetAddress()),
	}
	switch service, _, _ := strings.Cut(short(c.Method), "/"); {
	case c.Method == guestv1.ProcessService_Exec_FullMethodName || c.Method == guestv1.ProcessService_Start_FullMethodName:
		c.Program, c.Subject = true, true
		c.relative()
	case service == "FileService":
		c.Files, c.Subject = true, true
	case c.Method == guestv1.ForwardService_Dial_FullMethodName:
		c.Dial = true
	case service == "ForwardService":
		c.Listen = true
	}
	return c
}

func byteses(s []string) [][]byte {
	out := make([][]byte, len(s))
	for i := range s {
		out[i] = []byte(s[i])
	}
	return out
}
