package packaging

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// fakeDocker is an engine of version $VERSION. Its plugin exists from create to rm.
func fakeDocker() {
	args := strings.Join(os.Args[1:], " ")
	plugin := filepath.Join(os.Getenv("WORK"), "plugin")
	switch {
	case os.Getenv("VERSION") == "":
		os.Exit(1)
	case strings.HasPrefix(args, "version"):
		fmt.Println(os.Getenv("VERSION"))
	case strings.HasPrefix(args, "info"):
		fmt.Println(os.Getenv("DRIVER"))
	case strings.HasPrefix(args, "plugin inspect"):
		state, err := os.ReadFile(plugin)
		if err != nil {
			os.Exit(1)
		}
		fmt.Println(string(state))
	case strings.HasPrefix(args, "plugin create"):
		set(plugin, "false")
		note("docker plugin create " + filepath.Base(args))
	case strings.HasPrefix(args, "plugin enable"):
		set(plugin, "true")
		note("docker " + args)
	case strings.HasPrefix(args, "plugin rm"):
		_ = os.Remove(plugin)
		note("docker " + args)
	default:
		note("docker " + args)
	}
}

func fakeSystemctl() { note("systemctl " + strings.Join(os.Args[1:], " ")) }

func set(path, state string) {
	if err := os.WriteFile(path, []byte(state), 0o600); err != nil {
		panic(err)
	}
}

// note appends a line to $CALLS.
func note(line string) {
	f, err := os.OpenFile(os.Getenv("CALLS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}
