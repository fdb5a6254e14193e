import re
rows={}
for l in open('/tmp/wt/compat-out.txt'):
    m=re.match(r'\s+--- FAIL: TestCells/(.*?)/(inside|outside|handler)/(.*?)( \(|/HTTP)',l)
    if m: cur=m.groups()[:3]; rows.setdefault(cur[:2],[])
    m=re.search(r'got "(.*)", the table',l) or re.search(r'(?:harness|memory)_test.go:\d+: (.*)',l)
    if m: rows[cur[:2]].append((cur[2],m.group(1)))
for k,v in rows.items(): print(k[0],k[1],'|',' | '.join(x[1] for x in v))
