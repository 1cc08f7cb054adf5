package main

import (
	"bytes"

	"github.com/rogpeppe/go-internal/testscript"

	"layervault/migrate/dockertest"
)

// dockerEngine serves an engine until the script ends: docker-engine SOCKET
// old|new|plain|theirs [TAG...], with one image for each tag. plain is a new one without layervault,
// theirs a new one whose images are others.
func dockerEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: docker-engine SOCKET old|new|plain|theirs [TAG...]")
	}
	root := ts.MkAbs("root-" + args[1])
	engine := dockertest.Old(root)
	if args[1] != "old" {
		engine = dockertest.New(root)
	}
	if args[1] == "plain" {
		engine.Driver = "overlayfs"
	}
	if args[1] == "old" {
		engine.Containers = []string{`{"Id":"c0","Name":"/web","State":{"Status":"running"},"Config":{"Image":"a:1","Env":["PASSWORD=x"]},"HostConfig":{"RestartPolicy":{"Name":"always"}}}`}
		engine.Volumes = `[{"Name":"data","Driver":"layervault:latest"},{"Name":"cache","Driver":"local","Mountpoint":"/v/cache"}]`
		engine.Networks = `[{"Name":"bridge"},{"Name":"shopnet"}]`
	}
	for _, tag := range args[2:] {
		content := tag
		if args[1] == "theirs" {
			content += args[1]
		}
		engine.Images = append(engine.Images, &dockertest.Image{Tags: []string{tag}, Env: []string{"NAME=" + content}, Layers: [][]byte{bytes.Repeat([]byte(content), 1000)}})
	}
	stop, err := engine.Serve(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(stop)
}
