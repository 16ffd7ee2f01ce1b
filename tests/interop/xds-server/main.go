// A control plane for tests: go-control-plane, told what to serve by lines on its standard input.
//
// Each input line is a JSON object:
//
//	{"version": "1", "resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a"}, ...]}
//	    serves these resources, all types together, under this version;
//	{"do": "stop"}     ends all streams and connections and stops listening;
//	{"do": "start"}    listens again, on the same address, with the state before.
//
// Each output line is one: {"event": "listening", "address": "..."}, {"event": "serving", "version": "..."},
// {"event": "open" | "closed", "stream": 1, "delta": false}, {"event": "request" | "response", ...}.
//
// It ends with its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	virtualhost "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extension "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	// Types that resources may hold.
	_ "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// All nodes see the same.
type everyNode struct{}

func (everyNode) ID(*core.Node) string { return "all" }

type output struct {
	sync.Mutex
	lines *bufio.Writer
}

func (out *output) say(event map[string]any) {
	out.Lock()
	defer out.Unlock()
	line, err := json.Marshal(event)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(out.lines, "%s\n", line)
	out.lines.Flush()
}

func short(url string) string { return url[strings.LastIndex(url, ".")+1:] }

func callbacks(out *output) server.Callbacks {
	lifecycle := func(event string, delta bool, stream int64) {
		out.say(map[string]any{"event": event, "stream": stream, "delta": delta})
	}
	return server.CallbackFuncs{
		StreamOpenFunc: func(_ context.Context, id int64, _ string) error { lifecycle("open", false, id); return nil },
		DeltaStreamOpenFunc: func(_ context.Context, id int64, _ string) error {
			lifecycle("open", true, id)
			return nil
		},
		StreamClosedFunc:      func(id int64, _ *core.Node) { lifecycle("closed", false, id) },
		DeltaStreamClosedFunc: func(id int64, _ *core.Node) { lifecycle("closed", true, id) },
		StreamRequestFunc: func(id int64, r *discovery.DiscoveryRequest) error {
			out.say(map[string]any{"event": "request", "stream": id, "type": short(r.TypeUrl), "version": r.VersionInfo,
				"nonce": r.ResponseNonce, "names": r.ResourceNames, "error": r.GetErrorDetail().GetMessage(),
				"node": r.GetNode().GetId()})
			return nil
		},
		StreamDeltaRequestFunc: func(id int64, r *discovery.DeltaDiscoveryRequest) error {
			out.say(map[string]any{"event": "request", "stream": id, "type": short(r.TypeUrl),
				"nonce": r.ResponseNonce, "subscribe": r.ResourceNamesSubscribe,
				"unsubscribe": r.ResourceNamesUnsubscribe, "initial": r.InitialResourceVersions,
				"error": r.GetErrorDetail().GetMessage(), "node": r.GetNode().GetId()})
			return nil
		},
		StreamResponseFunc: func(_ context.Context, id int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			out.say(map[string]any{"event": "response", "stream": id, "type": short(r.TypeUrl),
				"version": r.VersionInfo, "nonce": r.Nonce, "count": len(r.Resources)})
		},
		StreamDeltaResponseFunc: func(id int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			out.say(map[string]any{"event": "response", "stream": id, "type": short(r.TypeUrl),
				"version": r.SystemVersionInfo, "nonce": r.Nonce, "count": len(r.Resources),
				"removed": r.RemovedResources})
		},
	}
}

func serve(xds server.Server, address string) (*grpc.Server, string) {
	socket, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxConcurrentStreams(1000))
	discovery.RegisterAggregatedDiscoveryServiceServer(s, xds)
	cluster.RegisterClusterDiscoveryServiceServer(s, xds)
	endpoint.RegisterEndpointDiscoveryServiceServer(s, xds)
	listener.RegisterListenerDiscoveryServiceServer(s, xds)
	route.RegisterRouteDiscoveryServiceServer(s, xds)
	route.RegisterVirtualHostDiscoveryServiceServer(s, xds)
	route.RegisterScopedRoutesDiscoveryServiceServer(s, xds)
	secret.RegisterSecretDiscoveryServiceServer(s, xds)
	runtime.RegisterRuntimeDiscoveryServiceServer(s, xds)
	extension.RegisterExtensionConfigDiscoveryServiceServer(s, xds)
	go func() {
		if err := s.Serve(socket); err != nil {
			log.Print(err)
		}
	}()
	return s, socket.Addr().String()
}

type command struct {
	Do        string            `json:"do"`
	Version   string            `json:"version"`
	Resources []json.RawMessage `json:"resources"`
}

// Virtual hosts go a way of their own.
func snapshot(c command, hosts *virtualHosts) (*cache.Snapshot, error) {
	resources := map[resource.Type][]types.Resource{}
	var virtual []*virtualhost.VirtualHost
	for _, text := range c.Resources {
		var any anypb.Any
		if err := protojson.Unmarshal(text, &any); err != nil {
			return nil, err
		}
		message, err := any.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		if host, ok := message.(*virtualhost.VirtualHost); ok {
			virtual = append(virtual, host)
			continue
		}
		resources[any.TypeUrl] = append(resources[any.TypeUrl], message)
	}
	if err := hosts.set(c.Version, virtual); err != nil {
		return nil, err
	}
	return cache.NewSnapshot(c.Version, resources)
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &output{lines: bufio.NewWriter(os.Stdout)}
	// Not strict about names: a request for a resource that does not exist is answered by those that do.
	state := cache.NewSnapshotCache(false, everyNode{}, nil)
	hosts := &virtualHosts{byName: map[string]virtualHost{}, watches: map[int]func() bool{}}
	kind := func(url string) string {
		if url == resource.VirtualHostType {
			return "hosts"
		}
		return "rest"
	}
	all := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return kind(r.TypeUrl) },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return kind(r.TypeUrl) },
		Caches:        map[string]cache.Cache{"hosts": hosts, "rest": state},
	}
	xds := server.NewServer(ctx, all, callbacks(out))
	listening, address := serve(xds, "127.0.0.1:0")
	out.say(map[string]any{"event": "listening", "address": address})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			log.Fatal(err)
		}
		switch c.Do {
		case "stop":
			listening.Stop()
			out.say(map[string]any{"event": "stopped"})
		case "start":
			listening, _ = serve(xds, address)
			out.say(map[string]any{"event": "listening", "address": address})
		case "":
			next, err := snapshot(c, hosts)
			if err == nil {
				err = state.SetSnapshot(ctx, "all", next)
			}
			if err != nil {
				log.Fatal(err)
			}
			out.say(map[string]any{"event": "serving", "version": c.Version})
		default:
			log.Fatalf("unknown command %q", c.Do)
		}
	}
}
