package policy_test

import (
	"fmt"
	"log"

	"github.com/vsockrpc/vsockrpc/agent/policy"
)

// What a policy makes of calls.
func Example() {
	p, err := policy.Parse([]byte(`
[roles.monitor]
keys = ["ci"]
profile = "info"
`))
	if err != nil {
		log.Fatal(err)
	}
	for _, words := range [][]string{{"ProcessService/ListProcesses"}, {"exec", "id"}} {
		call, err := policy.ParseCall(words)
		if err != nil {
			log.Fatal(err)
		}
		d := p.Decide(policy.Caller{Name: "ci", Fingerprint: "SHA256:PIAUDd1cumYYGTNkbMKYTXUUXbQ6CsnLJcpgDcZWD8I"}, call, policy.World{})
		fmt.Println(words[0], d.Allowed, d.Rule)
	}
	// Output:
	// ProcessService/ListProcesses true roles.monitor.profile
	// exec false default deny
}
