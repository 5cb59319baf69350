#!/bin/bash
# One capture: see README.md. make.sh VERSION BIN-DIR OUT-DIR PORT
set -e
v=$1; bin=$2; out=$3; port=$4
w=$(mktemp -d); chmod 755 $w; chown postgres $w; 
asu() { setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=$w PATH=$bin:$PATH LC_ALL=C TZ=UTC "$@"; }
asu initdb -D $w/d --wal-segsize=1 -A trust -U postgres --no-sync -E UTF8 --locale=C >/dev/null
cat >> $w/d/postgresql.conf <<C
port=$port
listen_addresses=''
unix_socket_directories='$w'
wal_level=replica
max_prepared_transactions=10
wal_keep_size=64
min_wal_size=16
max_wal_size=64
fsync=off
autovacuum=off
wal_compression=on
log_min_messages=warning
timezone=UTC
C
asu pg_ctl -D $w/d -w -l $w/log start >/dev/null
q() { asu psql -X -q -v ON_ERROR_STOP=1 -h $w -p $port -U postgres -d postgres "$@"; }
q <<S
checkpoint;
create table t(id int primary key, v text);
create table gone(id int);
create index on t(v);
insert into t select g, repeat('x', g % 40) from generate_series(1,300) g;
checkpoint;
update t set v = v || 'y' where id % 7 = 0;
select pg_create_restore_point('before the drop');
drop table gone;
begin; insert into t values (1000,'aborted'); rollback;
begin; savepoint a; insert into t values (1001,'s'); savepoint b; insert into t values (1002,'s'); commit;
begin; insert into t values (1003,'p'); prepare transaction 'gid one';
begin; insert into t values (1004,'p'); prepare transaction 'gid two';
insert into t values (1005,'between');
commit prepared 'gid one';
rollback prepared 'gid two';
select pg_switch_wal();
select pg_logical_emit_message(false, 'big', repeat('b', 1500000));
select pg_logical_emit_message(true, 'small', 'm');
truncate t;
insert into t select g, 'again' from generate_series(1,50) g;
select pg_create_restore_point('after ünïcode');
select pg_create_restore_point('twice');
insert into t values (2000,'x');
select pg_create_restore_point('twice');
S
for i in $(seq 1 120); do echo "insert into t values ($((3000+i)), 'c');"; done | q
q -c "select pg_switch_wal()" -c "insert into t values (9000,'last')" >/dev/null
seg=$(q -Atc "select pg_walfile_name(pg_current_wal_lsn())")
ins=$(q -Atc "select pg_current_wal_insert_lsn()")
flush=$(q -Atc "select pg_current_wal_flush_lsn()")
asu pg_ctl -D $w/d -w -m immediate stop >/dev/null
mkdir -p $out
first=$(ls $w/d/pg_wal | grep -E '^[0-9A-F]{24}$' | sort | head -1)
rm -f $out/*
# 15 keeps what a recycled segment holds behind the end of the log; the others end in zeros.
python3 - $w/d/pg_wal $first $seg $flush $v > $w/wal <<'PY'
import os, sys
d, first, last, flush, v = sys.argv[1:]
for name in sorted(os.listdir(d)):
    if len(name) != 24 or not first <= name <= last: continue
    data = open(os.path.join(d, name), 'rb').read()
    if name == last and v != '15':
        end = int(flush.split('/')[1], 16) % len(data)
        data = data[:end] + bytes(len(data) - end)
    sys.stdout.buffer.write(data)
PY
zstd -q -19 --long=24 -f $w/wal -o $out/$first.wal.zst
asu pg_waldump -p $w/d/pg_wal $first $seg > $w/dump.txt 2> $w/dump.err || true
sed -E '/COMMIT|ABORT|RESTORE_POINT|PREPARE/!s/desc: .*//; s/; (inval msgs|rels|dropped stats).*//' $w/dump.txt | zstd -q -19 -f -o $out/waldump.txt.zst
echo "$v flush=$flush seg=$seg"; tail -1 $w/dump.txt; cat $w/dump.err
du -b $out | tail -1; ls -la $out
rm -rf $w
