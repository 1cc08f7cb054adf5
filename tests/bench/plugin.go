package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// plugin speaks docker's graph driver protocol to a running plugin.
type plugin struct{ http http.Client }

func newPlugin(socket string) *plugin {
	return &plugin{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

type pluginRequest struct {
	ID         string            `json:",omitempty"`
	Parent     string            `json:",omitempty"`
	MountLabel string            `json:",omitempty"`
	Home       string            `json:",omitempty"`
	StorageOpt map[string]string `json:",omitempty"`
}

type pluginResponse struct {
	Err  string
	Dir  string
	Size int64
}

// call is one request with a JSON body.
func (p *plugin) call(ctx context.Context, method string, req pluginRequest) (pluginResponse, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return pluginResponse{}, err
	}
	return p.post(ctx, "GraphDriver."+method, bytes.NewReader(body))
}

// apply makes a sealed layer of a tar.
func (p *plugin) apply(ctx context.Context, id, parent string, tar io.Reader) error {
	if _, err := p.call(ctx, "Create", pluginRequest{ID: id, Parent: parent}); err != nil {
		return err
	}
	_, err := p.post(ctx, fmt.Sprintf("GraphDriver.ApplyDiff?id=%s&parent=%s", id, parent), tar)
	return err
}

func (p *plugin) remove(ctx context.Context, id string) error {
	_, err := p.call(ctx, "Remove", pluginRequest{ID: id})
	return err
}

func (p *plugin) post(ctx context.Context, path string, body io.Reader) (out pluginResponse, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/"+path, body)
	if err != nil {
		return out, err
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	res, err := p.http.Do(req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return out, err
	}
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("%s: %s: %s", path, res.Status, strings.TrimSpace(string(raw)))
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("%s: %w", path, err)
	}
	if out.Err != "" {
		return out, errors.New(out.Err)
	}
	return out, nil
}
