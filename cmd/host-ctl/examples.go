package main

import "github.com/spf13/cobra"

// examples are those of the verbs whose own file has none.
var examples = map[string]string{
	"shell": `  host-ctl shell web
  host-ctl shell alice@3`,
	"attach": `  host-ctl exec -dit --name work web bash
  host-ctl attach web work`,
	"sessions": `  host-ctl sessions web
  host-ctl sessions --running -q web`,
	"logs": `  host-ctl logs web build
  host-ctl logs -f -n 100 web build`,
	"ps": `  host-ctl ps web
  host-ctl ps --sort rss --user alice web
  host-ctl ps web aux`,
	"rm": `  host-ctl rm web /srv/old.tar
  host-ctl rm -r web /srv/cache
  host-ctl rm web build`,
	"ls": `  host-ctl ls web /etc
  host-ctl ls -la web '~'`,
	"cat":   `  host-ctl cat web /etc/os-release`,
	"mkdir": `  host-ctl mkdir -p web /srv/app/logs`,
	"mv":    `  host-ctl mv web /srv/app.new /srv/app`,
	"stat":  `  host-ctl stat web /etc/passwd`,
	"df": `  host-ctl df web
  host-ctl df web /srv -o json`,
	"du":    `  host-ctl du web /var/log`,
	"watch": `  host-ctl watch web /etc`,
	"proxy": `  host-ctl proxy web 22
  ssh -o ProxyCommand='host-ctl proxy web 22' web
  host-ctl proxy web --grpc unix:/tmp/web.sock`,
	"vsock-device": `  host-ctl vsock-device --cid 3 --socket /tmp/vhost --uds /tmp/vm
  host-ctl exec vsock-mux:/tmp/vm:1000 -- uname -a`,
	"list": `  host-ctl list
  host-ctl list web db -o json`,
	"info": `  host-ctl info web
  host-ctl info -o json 3`,
	"wait": `  host-ctl wait web --timeout 2m && host-ctl exec web -- systemctl is-system-running`,
	"doctor": `  host-ctl doctor
  host-ctl doctor web`,
	"keygen": `  host-ctl keygen
  host-ctl --identity ci/id_ed25519 keygen -C ci`,
	"enroll": `  sudo host-ctl enroll web
  host-ctl enroll --key bob.pub --role ops web
  host-ctl enroll --list web
  host-ctl enroll --print cloud-init`,
	"can-i": `  host-ctl can-i web exec systemctl restart nginx`,
	"clock": `  host-ctl clock web
  host-ctl clock --set web`,
	"version": `  host-ctl version`,
}

// addExamples gives the verbs their examples.
func addExamples(root *cobra.Command) {
	for _, v := range root.Commands() {
		if v.Example == "" {
			v.Example = examples[v.Name()]
		}
	}
}
