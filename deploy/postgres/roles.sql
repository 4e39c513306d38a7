-- The roles of the database (docs/how-to/operating.md): veltrix_owner migrates, veltrix_app is the platform,
-- veltrix_read only reads. Run by a new server at its first start, and by hand where one is older:
--   docker compose exec postgres psql -U veltrix -f /docker-entrypoint-initdb.d/10-roles.sql
-- Running it again sets the passwords anew. `veltrix db grants` then says who may do what.
\set ON_ERROR_STOP on
\set owner_password `cat /run/secrets/database_owner_password`
\set app_password `cat /run/secrets/database_app_password`
\set read_password `cat /run/secrets/database_read_password`

begin;
-- Who waits for a table keeps all others from it: behind a long report this gives up, run it again.
set local lock_timeout = '5s';
select format('create role %I', name) from unnest(array['veltrix_owner', 'veltrix_app', 'veltrix_read']) as name
where not exists (select from pg_roles where rolname = name) \gexec
alter role veltrix_owner login nosuperuser nocreaterole nocreatedb password :'owner_password';
alter role veltrix_app login nosuperuser nocreaterole nocreatedb password :'app_password';
alter role veltrix_read login nosuperuser nocreaterole nocreatedb password :'read_password';

-- The owner may make tables in `public`, and owns what an earlier version made as the superuser.
select format('alter database %I owner to veltrix_owner', current_database()) \gexec
select format('alter table %s owner to veltrix_owner', oid::regclass) from pg_class
where relnamespace = 'public'::regnamespace and relowner = current_user::regrole and relkind in ('r', 'p')
order by oid \gexec
-- A sequence of its own; those of columns go with their tables.
select format('alter sequence %s owner to veltrix_owner', oid::regclass) from pg_class c
where relnamespace = 'public'::regnamespace and relowner = current_user::regrole and relkind = 'S'
    and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i'))
\gexec
select format('alter function %s owner to veltrix_owner', oid::regprocedure) from pg_proc
where pronamespace = 'public'::regnamespace and proowner = current_user::regrole and prokind = 'f'
    and not exists (select from pg_depend d where d.objid = pg_proc.oid and d.deptype = 'e')
order by oid \gexec
commit;
