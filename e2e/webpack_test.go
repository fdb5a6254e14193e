package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// npmModules are what e2e/run has of npm, as e2e/webpack lists it.
var npmModules = filepath.Join(os.Getenv("E2E_DIR"), "webpack/node_modules/")

var (
	webpackNeeds  = []string{"node", filepath.Join(npmModules, "webpack-dev-server")}
	webpack       = behind(httpBackend, webpackNeeds, func(app string) ([]string, error) { return startWebpack("webpack", app) })
	routesWebpack = behind(appHTTP, webpackNeeds, func(app string) ([]string, error) { return startWebpack("routes-webpack", app) })
)

// webpackServers are webpack-dev-server as it comes, and without compression.
const webpackServers = `
const [backend, ...at] = process.argv.slice(2);
const {webpack} = require('webpack'), Server = require('webpack-dev-server');
const start = (at, options) => {
	const [host, port] = at.split(':');
	const compiler = webpack({mode: 'development', context: __dirname, entry: {}, stats: 'none', infrastructureLogging: {level: 'error'}});
	const proxy = [{context: ['/'], target: 'http://' + backend, logLevel: 'warn'}];
	new Server({host, port, proxy, allowedHosts: 'all', static: false, hot: false, liveReload: false, webSocketServer: false, ...options}, compiler)
		.start().catch(err => { console.error(err); process.exit(1); });
};
start(at[0], {});
start(at[1], {compress: false});
`

func startWebpack(name, backend string) ([]string, error) {
	script, err := file(name+"/server.js", []byte(webpackServers), 0o644)
	if err != nil {
		return nil, err
	}
	_, addrs, err := onPorts(2, func(addrs []string) (*process, error) {
		cmd := exec.Command(program("node"), append([]string{script, backend}, addrs...)...)
		cmd.Env = append(cmd.Environ(), "NODE_PATH="+npmModules)
		return launch(name, cmd, syscall.SIGTERM)
	})
	return addrs, err
}
