go test -timeout 60s -run "${1:-TestCells}" . > /tmp/wt/compat-out.txt 2>&1; tail -3 /tmp/wt/compat-out.txt
