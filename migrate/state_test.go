package migrate_test

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"layervault/migrate"
	"layervault/migrate/docker"
)

// frozen are states as earlier versions wrote them, never to be edited: a migration that was begun
// must go on with a later version.
var frozen = map[string]migrate.State{
	"v1.json": {Version: 1, Images: []migrate.Entry{
		{
			ID: "sha256:" + strings.Repeat("1", 64), Tags: []string{"shop:1", "shop:latest"}, Digests: []string{"reg/shop@sha256:" + strings.Repeat("2", 64)},
			Size: 12345, Stage: migrate.Verified, NewID: "sha256:" + strings.Repeat("3", 64), Pulled: true,
			Content: docker.Content{Layers: []string{"sha256:" + strings.Repeat("4", 64)}, Config: docker.Config{
				Architecture: "arm64", OS: "linux", Author: "a", User: "1:1", Env: []string{"A=1"}, Entrypoint: []string{"/e"}, Cmd: []string{"c", "d"},
				WorkingDir: "/w", StopSignal: "SIGINT", Labels: map[string]string{"l": "1"}, Ports: map[string]struct{}{"80/tcp": {}},
				Volumes: map[string]struct{}{"/v": {}}, Shell: []string{"/bin/sh", "-c"}, OnBuild: []string{"RUN x"}, Healthcheck: []string{"CMD", "true"},
			}},
		},
		{
			ID: "sha256:" + strings.Repeat("5", 64), Size: 1, Stage: migrate.Saved, TarSize: 4096, TarSum: strings.Repeat("6", 64),
			Content: docker.Content{Config: docker.Config{OS: "linux"}},
		},
	}},
}

func TestFrozenStates(t *testing.T) {
	for name, want := range frozen {
		data, err := os.ReadFile("testdata/states/" + name)
		must(t, err)
		got, err := migrate.DecodeState(data)
		must(t, err)
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s is %+v", name, *got)
		}
	}
}

func TestBadStates(t *testing.T) {
	id := "sha256:" + strings.Repeat("1", 64)
	entry := func(more string) string {
		return `{"version":1,"images":[{"id":"` + id + `","size":1,"content":{"config":{}},"stage":"saved","tar_sha256":"` + strings.Repeat("1", 64) + `"` + more + `}]}`
	}
	if _, err := migrate.DecodeState([]byte(entry(""))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no object": "[]", "no version": "{}", "later": `{"version":2,"images":[]}`, "unknown field": entry(`,"x":1`), "behind the end": entry("") + "{}",
		"another ID": strings.Replace(entry(""), "sha256:1", "sha256:../1", 1), "unknown stage": strings.Replace(entry(""), "saved", "sent", 1),
		"no sum": strings.Replace(entry(""), "tar_sha256", "new_id", 1), "negative": strings.Replace(entry(""), `"size":1`, `"size":-1`, 1),
		"no new ID": strings.Replace(entry(""), "saved", "verified", 1), "bad sum": strings.Replace(entry(""), `"111`, `"x11`, 1),
		"twice": strings.Replace(entry(""), `]}`, `,`+strings.TrimSuffix(strings.TrimPrefix(entry(""), `{"version":1,"images":[`), "]}")+`]}`, 1),
	} {
		if _, err := migrate.DecodeState([]byte(text)); !errors.Is(err, migrate.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzState wants what is read to be written back to the same meaning.
func FuzzState(f *testing.F) {
	data, err := os.ReadFile("testdata/states/v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"images":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := migrate.DecodeState(data)
		if err != nil {
			return
		}
		out, err := s.Encode()
		must(t, err)
		again, err := migrate.DecodeState(out)
		must(t, err)
		second, err := again.Encode()
		must(t, err)
		if string(out) != string(second) || len(again.Images) != len(s.Images) {
			t.Errorf("%s became %s", out, second)
		}
	})
}
