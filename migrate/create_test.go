package migrate_test

import (
	"encoding/json"
	"strings"
	"testing"

	"layervault/migrate"
	"layervault/migrate/docker"
)

func TestCreateCommand(t *testing.T) {
	image := &docker.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}, Entrypoint: []string{"/init"}, Labels: map[string]string{"vendor": "x"}, User: "app"}
	for name, tc := range map[string]struct{ inspect, want string }{
		"nothing of its own": {
			`{"Config":{"Image":"a:1","Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":["/init"],"User":"app","Hostname":"0123456789ab"},
			"HostConfig":{"NetworkMode":"default","IpcMode":"private","ShmSize":67108864,"Runtime":"runc","LogConfig":{"Type":"json-file"}}}`,
			"docker create --name web a:1",
		},
		"words of a shell": {
			`{"Config":{"Image":"a:1","Cmd":["sh","-c","echo 'it' $HOME"],"Entrypoint":["/init"],"User":"app"}}`,
			`docker create --name web a:1 sh -c 'echo '\''it'\'' $HOME'`,
		},
		"another entry point": {
			`{"Config":{"Image":"a:1","Cmd":["x"],"Entrypoint":["/run","-v"],"User":"app"}}`,
			"docker create --name web --entrypoint /run a:1 -v x",
		},
		"no entry point": {
			`{"Config":{"Image":"a:1","Cmd":["x"],"User":"app"}}`,
			"docker create --name web --entrypoint '' a:1 x",
		},
		"much": {
			`{"Config":{"Image":"a:1","Cmd":["sh"],"Entrypoint":["/init"],"User":"0","Hostname":"box","Tty":true,"Env":["PATH=/bin","A=b c"],"Labels":{"vendor":"x","tier":"1"},"WorkingDir":"/w","StopSignal":"SIGINT"},
			"HostConfig":{"RestartPolicy":{"Name":"unless-stopped"},"Init":true,"Privileged":true,"SecurityOpt":["label=disable"],"CapAdd":["NET_ADMIN"],"ReadonlyRootfs":true,"Memory":1048576,"NanoCpus":1500000000,"PidsLimit":100,
			"Tmpfs":{"/t":"size=1m"},"Sysctls":{"net.ipv4.ip_forward":"1"},"Devices":[{"PathOnHost":"/dev/a","PathInContainer":"/dev/b","CgroupPermissions":"rw"}],"NetworkMode":"net1","Dns":["9.9.9.9"],
			"PortBindings":{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}],"53/udp":[{"HostPort":"53"}]},"LogConfig":{"Type":"json-file","Config":{"max-size":"1m"}}},
			"Mounts":[{"Type":"volume","Name":"data","Destination":"/data","RW":true},{"Type":"bind","Source":"/etc/x","Destination":"/x"},{"Type":"tmpfs","Destination":"/t"}],
			"NetworkSettings":{"Networks":{"net1":{"Aliases":["db","0123456789ab"]},"net2":{}}}}`,
			"docker create --name web --hostname box --restart unless-stopped --tty --init --user 0 --workdir /w --stop-signal SIGINT --env 'A=b c' --label tier=1 --log-driver json-file --log-opt max-size=1m" +
				" --memory 1048576 --cpus 1.5 --pids-limit 100 --privileged --read-only --cap-add NET_ADMIN --sysctl net.ipv4.ip_forward=1 --device /dev/a:/dev/b:rw" +
				" --volume data:/data --volume /etc/x:/x:ro --tmpfs /t:size=1m --network net1 --dns 9.9.9.9 --publish 53:53/udp --publish '[::1]:8080:80/tcp' --network-alias db a:1\n" +
				"docker network connect net2 web",
		},
		"notes": {
			`{"Config":{"Image":"a:1","Cmd":["sh"],"Entrypoint":["/init"],"User":"app","Labels":{"com.docker.compose.project":"shop"}},"HostConfig":{"Links":["/a:/b"]}}`,
			"# web: made by docker compose, project shop: docker compose up makes it better than this line\n# web: not in the line: links\n" +
				"docker create --name web --label com.docker.compose.project=shop a:1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &docker.Container{ID: "0123456789abcdef", Name: "web"}
			must(t, json.Unmarshal([]byte(tc.inspect), &c.Inspected))
			if got := strings.TrimSuffix(migrate.CreateCommand(c, image), "\n"); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
