// Fanout sends each event that is published once, on whatever machine, to
// every browser on every machine. NATS carries the events between them and
// keeps them for clients that come back.
//
//	go run . -addr 127.0.0.1:8081                  # with a NATS server inside
//	go run . -addr 127.0.0.1:8082 -nats URL        # with that one, or a cluster
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8081", "address to listen on")
	url := flag.String("nats", "", "URLs of a NATS cluster with JetStream; empty: start a server")
	store := flag.String("store", "", "folder of the server that is started; empty: a temporary one")
	replicas := flag.Int("replicas", 1, "how many servers of the cluster keep each event")
	detach := flag.Bool("detach", true, "have the streams outlive their handlers; false shows what one costs that does not")
	flag.Parse()
	if err := run(*addr, *url, *store, *replicas, *detach); err != nil {
		log.Fatal(err)
	}
}

func run(addr, url, store string, replicas int, detach bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	if url == "" {
		if store == "" {
			dir, err := os.MkdirTemp("", "fanout")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			store = dir
		}
		ns, err := startNATS(store)
		if err != nil {
			return err
		}
		defer ns.WaitForShutdown()
		defer ns.Shutdown()
		url = ns.ClientURL()
		fmt.Printf("others: go run . -addr 127.0.0.1:8082 -nats %s\n", url)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	in, err := newInstance(ctx, url, replicas, os.Stderr)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	in.detach = detach
	fmt.Printf("listen:  curl -N http://%[1]v/events\npublish: curl -d hello http://%[1]v/events\n", ln.Addr())
	return in.serve(ctx, ln)
}

// startNATS starts a NATS server of one's own on a free port.
func startNATS(dir string) (*server.Server, error) {
	ns, err := server.NewServer(&server.Options{
		Host:      "127.0.0.1",
		Port:      server.RANDOM_PORT,
		JetStream: true,
		StoreDir:  dir,
		NoSigs:    true,
	})
	if err != nil {
		return nil, err
	}
	ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		ns.Shutdown()
		return nil, errors.New("the NATS server does not start")
	}
	return ns, nil
}
