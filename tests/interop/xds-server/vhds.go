// Virtual hosts by VHDS, which go-control-plane's snapshots do not know: who asks for all gets all (`table/name`) but those
// called `table/lazy-...`; `table/domain` asks for the one that has the domain.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The version under which an alias is remembered that leads nowhere.
const nowhere = "nowhere"

type virtualHost struct {
	message *route.VirtualHost
	body    *anypb.Any
	version string
}

type virtualHosts struct {
	sync.Mutex
	version string
	byName  map[string]virtualHost
	watches map[int]func() bool
	last    int
}

func (all *virtualHosts) set(version string, hosts []*route.VirtualHost) error {
	all.Lock()
	defer all.Unlock()
	all.version, all.byName = version, map[string]virtualHost{}
	for _, message := range hosts {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil {
			return err
		}
		body := &anypb.Any{TypeUrl: resource.VirtualHostType, Value: value}
		all.byName[message.Name] = virtualHost{message, body, fmt.Sprintf("%x", sha256.Sum256(value))}
	}
	for id, answered := range all.watches {
		if answered() {
			delete(all.watches, id)
		}
	}
	return nil
}

// The virtual hosts that a name asks for; "*" for all.
func (all *virtualHosts) of(name string) []string {
	table, domain, _ := strings.Cut(name, "/")
	var found []string
	for key, host := range all.byName {
		of, rest, _ := strings.Cut(key, "/")
		every := name == "*" && !strings.HasPrefix(rest, "lazy-")
		if every || key == name || of == table && slices.Contains(host.message.Domains, domain) {
			found = append(found, key)
		}
	}
	return found
}

type answer struct {
	request  *cache.DeltaRequest
	response *discovery.DeltaDiscoveryResponse
	returned map[string]string
}

func (a answer) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	return a.response, nil
}
func (a answer) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return a.request }
func (a answer) GetSystemVersion() (string, error)                 { return a.response.SystemVersionInfo, nil }
func (a answer) GetResponseVersion() string                        { return a.response.SystemVersionInfo }
func (a answer) GetNextVersionMap() map[string]string              { return a.returned }
func (a answer) GetReturnedResources() map[string]string           { return a.returned }
func (a answer) GetContext() context.Context                       { return context.Background() }

// What is news for a client that has `known`.
func (all *virtualHosts) news(known map[string]string, asked map[string]struct{}) (*discovery.DeltaDiscoveryResponse, map[string]string) {
	response := &discovery.DeltaDiscoveryResponse{TypeUrl: resource.VirtualHostType, SystemVersionInfo: all.version}
	returned, aliases := map[string]string{}, map[string][]string{}
	stale := map[string]bool{}
	for name := range asked {
		found := all.of(name)
		for _, key := range found {
			returned[key] = all.byName[key].version
			if strings.Contains(name, "/") && key != name {
				aliases[key], returned[name] = append(aliases[key], name), returned[key]
				stale[key] = stale[key] || known[name] != returned[key]
			}
			stale[key] = stale[key] || known[key] != returned[key]
		}
		if strings.Contains(name, "/") && len(found) == 0 {
			returned[name] = nowhere
			if known[name] != nowhere {
				response.Resources = append(response.Resources, &discovery.Resource{Name: name, Aliases: []string{name}})
			}
		}
	}
	for key, changed := range stale {
		if host := all.byName[key]; changed {
			response.Resources = append(response.Resources,
				&discovery.Resource{Name: key, Version: host.version, Aliases: aliases[key], Resource: host.body})
		}
	}
	for name := range known {
		if _, there := returned[name]; !there {
			response.RemovedResources = append(response.RemovedResources, name)
		}
	}
	return response, returned
}

func (all *virtualHosts) CreateDeltaWatch(r *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	all.Lock()
	defer all.Unlock()
	first := r.ResponseNonce == ""
	answered := func() bool {
		asked := maps.Clone(sub.SubscribedResources())
		if sub.IsWildcard() {
			asked["*"] = struct{}{}
		}
		response, returned := all.news(sub.ReturnedResources(), asked)
		if !first && len(response.Resources)+len(response.RemovedResources) == 0 {
			return false
		}
		out <- answer{r, response, returned}
		return true
	}
	if answered() {
		return nil, nil
	}
	all.last++
	id := all.last
	all.watches[id] = answered
	return func() {
		all.Lock()
		defer all.Unlock()
		delete(all.watches, id)
	}, nil
}

func (all *virtualHosts) CreateWatch(*cache.Request, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, errors.New("virtual hosts come over delta only")
}

func (all *virtualHosts) Fetch(context.Context, *cache.Request) (cache.Response, error) {
	return nil, errors.New("virtual hosts come over delta only")
}
