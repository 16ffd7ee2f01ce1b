// The API server of Kubernetes as it is, from its published module: what the suite of `--store kubernetes` runs against.
// It is a program of its own because `go install` refuses a main module whose go.mod has replacements.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
