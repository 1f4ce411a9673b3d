// What the JDBC driver does: all of a database's metadata, or each way to query and write, with what comes back.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class Conformance {
    interface Step { void run() throws Exception; }

    static void step(String name, Step step) {
        System.out.println("== " + name);
        try {
            step.run();
        } catch (Exception error) {
            System.out.println("error: " + error.getClass().getName() + " " + error.getMessage());
        }
    }

    static void print(ResultSet rows) throws SQLException {
        ResultSetMetaData meta = rows.getMetaData();
        for (int n = 1; n <= meta.getColumnCount(); n++)
            System.out.print(meta.getColumnName(n) + ":" + meta.getColumnTypeName(n) + "@" + meta.getTableName(n) + " ");
        System.out.println();
        while (rows.next()) {
            StringBuilder line = new StringBuilder();
            for (int n = 1; n <= meta.getColumnCount(); n++) line.append(text(rows, n)).append('|');
            System.out.println(line);
        }
        rows.close();
    }

    static String text(ResultSet rows, int column) throws SQLException {
        if (rows.getMetaData().getColumnType(column) != Types.BINARY) return rows.getString(column);
        byte[] bytes = rows.getBytes(column);
        return bytes == null ? null : java.util.HexFormat.of().formatHex(bytes);
    }

    static Connection connect(String url, String... more) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        for (int n = 0; n < more.length; n += 2) properties.put(more[n], more[n + 1]);
        return DriverManager.getConnection(url, properties);
    }

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        if (arguments[1].equals("metadata")) metadata(connect(url));
        else for (String mode : new String[] {"extended", "simple", "extendedForPrepared", "extendedCacheEverything"})
            queries(url, mode);
    }

    static void metadata(Connection c) throws Exception {
        DatabaseMetaData m = c.getMetaData();
        step("product", () -> System.out.println(m.getDatabaseProductVersion() + " " + m.getDriverVersion() + " "
            + m.getUserName() + " " + m.getMaxConnections() + " " + m.getSQLKeywords()));
        step("schemas", () -> print(m.getSchemas()));
        step("catalogs", () -> print(m.getCatalogs()));
        step("tables", () -> print(m.getTables(null, null, "%", null)));
        step("columns", () -> print(m.getColumns(null, null, "%", "%")));
        step("types", () -> print(m.getTypeInfo()));
        step("udts", () -> print(m.getUDTs(null, null, "%", null)));
        step("procedures", () -> print(m.getProcedures(null, null, "%")));
        step("functions", () -> print(m.getFunctions(null, null, "%")));
        step("functionColumns", () -> print(m.getFunctionColumns(null, "public", "%", "%")));
        step("privileges", () -> print(m.getTablePrivileges(null, null, "%")));
        step("exported", () -> print(m.getExportedKeys(null, null, "%")));
        step("imported", () -> print(m.getImportedKeys(null, null, "%")));
        List<String> tables = new ArrayList<>();
        ResultSet found = m.getTables(null, "public", "%", new String[] {"TABLE", "PARTITIONED TABLE"});
        while (found.next()) tables.add(found.getString("TABLE_NAME"));
        step("keys", () -> {
            for (String table : tables) print(m.getPrimaryKeys(null, "public", table));
        });
        step("indexes", () -> {
            for (String table : tables) print(m.getIndexInfo(null, "public", table, false, true));
        });
        step("best row", () -> {
            for (String table : tables) print(m.getBestRowIdentifier(null, "public", table, 0, true));
        });
        step("rows", () -> {
            Statement s = c.createStatement();
            s.setMaxRows(3);
            for (String table : tables) print(s.executeQuery("SELECT * FROM public.\"" + table + "\" ORDER BY 1 NULLS LAST"));
        });
    }

    static void queries(String url, String mode) throws Exception {
        Connection c = connect(url, "preferQueryMode", mode, "prepareThreshold", "3", "ApplicationName", "conformance");
        Statement s = c.createStatement();
        step(mode + " tables", () -> {
            s.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id serial PRIMARY KEY, name text, n numeric, at timestamptz, b bytea)");
            s.execute("CREATE OR REPLACE FUNCTION two(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'");
            s.execute("CREATE OR REPLACE PROCEDURE put(INOUT x int) LANGUAGE plpgsql AS 'BEGIN x := x + 1; END'");
        });
        step(mode + " batch", () -> {
            PreparedStatement p = c.prepareStatement("INSERT INTO t (name, n, at, b) VALUES (?, ?, ?, ?)", Statement.RETURN_GENERATED_KEYS);
            for (int n = 0; n < 500; n++) {
                p.setString(1, "name " + n);
                p.setBigDecimal(2, new java.math.BigDecimal(n).movePointLeft(2));
                p.setTimestamp(3, new Timestamp(86400000L * n));
                p.setBytes(4, new byte[] {(byte) n, 0, 39, 92});
                p.addBatch();
            }
            System.out.println(Arrays.stream(p.executeBatch()).sum());
            print(p.getGeneratedKeys());
        });
        step(mode + " prepared", () -> {
            PreparedStatement p = c.prepareStatement("SELECT id, name, n, at, b FROM t WHERE id = ?");
            for (int n = 1; n < 12; n++) {
                p.setInt(1, n);
                print(p.executeQuery());
            }
            System.out.println(p.getParameterMetaData().getParameterTypeName(1));
        });
        step(mode + " cursor", () -> {
            c.setAutoCommit(false);
            PreparedStatement p = c.prepareStatement("SELECT id FROM t ORDER BY id");
            p.setFetchSize(60);
            int sum = 0;
            ResultSet rows = p.executeQuery();
            while (rows.next()) sum += rows.getInt(1);
            System.out.println(sum);
            c.commit();
            c.setAutoCommit(true);
        });
        step(mode + " savepoints", () -> {
            c.setAutoCommit(false);
            s.executeUpdate("INSERT INTO t (name) VALUES ('kept')");
            Savepoint point = c.setSavepoint("a point");
            try { s.executeUpdate("INSERT INTO t (id) VALUES (1)"); }
            catch (SQLException error) { System.out.println(error.getSQLState() + " " + error.getMessage()); }
            c.rollback(point);
            c.commit();
            c.setAutoCommit(true);
            print(s.executeQuery("SELECT name FROM t WHERE name = 'kept'"));
        });
        step(mode + " updatable", () -> {
            Statement u = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
            ResultSet rows = u.executeQuery("SELECT id, name FROM t WHERE id = 7");
            rows.next();
            rows.updateString(2, "changed");
            rows.updateRow();
            print(s.executeQuery("SELECT id, name FROM t WHERE id = 7"));
        });
        step(mode + " many", () -> {
            boolean more = s.execute("SELECT 1 AS a; UPDATE t SET n = 1 WHERE id < 4; SELECT 'x;''y' AS b; SELECT $$a;b$$");
            do {
                if (more) print(s.getResultSet());
                else System.out.println(s.getUpdateCount());
                more = s.getMoreResults();
            } while (more || s.getUpdateCount() != -1);
        });
        step(mode + " calls", () -> {
            CallableStatement f = c.prepareCall("{? = call two(?)}");
            f.registerOutParameter(1, Types.INTEGER);
            f.setInt(2, 21);
            f.execute();
            System.out.println(f.getInt(1));
            CallableStatement p = c.prepareCall("CALL put(?)");
            p.registerOutParameter(1, Types.INTEGER);
            p.setInt(1, 4);
            p.execute();
            System.out.println(p.getInt(1));
        });
        step(mode + " copy", () -> {
            CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
            System.out.println(copy.copyIn("COPY t (name, n) FROM STDIN WITH (FORMAT csv)", new StringReader("a,1\nb,2\n\"c,d\",3\n")));
            StringWriter out = new StringWriter();
            System.out.println(copy.copyOut("COPY (SELECT name, n FROM t WHERE id > 500 ORDER BY id) TO STDOUT", out));
            System.out.println(out);
            try { copy.copyIn("COPY t (n) FROM STDIN", new StringReader("no number\n")); }
            catch (SQLException error) { System.out.println(error.getSQLState() + " " + error.getMessage()); }
        });
        step(mode + " notify", () -> {
            s.execute("LISTEN here");
            s.execute("NOTIFY here, 'it'");
            int own = c.unwrap(PGConnection.class).getBackendPID();
            for (var n : c.unwrap(PGConnection.class).getNotifications(5000))
                System.out.println(n.getName() + " " + n.getParameter() + " own: " + (n.getPID() == own));
        });
        step(mode + " cancel", () -> {
            s.setQueryTimeout(1);
            try { s.execute("SELECT pg_sleep(20)"); }
            catch (SQLException error) { System.out.println(error.getSQLState() + " " + error.getMessage()); }
            s.setQueryTimeout(0);
        });
        step(mode + " large objects", () -> {
            c.setAutoCommit(false);
            var api = c.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = api.createLO();
            System.out.println(oid > 0);
        });
        c.rollback();
        c.setAutoCommit(true);
        step(mode + " arrays", () -> {
            PreparedStatement p = c.prepareStatement("SELECT ?::int[], ?::text[], ?::uuid, ?::jsonb, ?::date");
            p.setArray(1, c.createArrayOf("int4", new Object[] {1, null, 3}));
            p.setArray(2, c.createArrayOf("text", new Object[] {"a\"b", "c,d", null}));
            p.setObject(3, new UUID(1, 2));
            p.setObject(4, "{\"a\": 1}", Types.OTHER);
            p.setObject(5, java.time.LocalDate.of(2026, 1, 2));
            print(p.executeQuery());
        });
        step(mode + " errors", () -> {
            for (String sql : new String[] {"SELECT nonsense", "SELEC", "SELECT 1/0", "INSERT INTO t (id) VALUES (1)", "SELECT '\u00e9' || E'\\\\'"})
                try { print(s.executeQuery(sql)); }
                catch (SQLException error) { System.out.println(error.getSQLState() + " " + error.getMessage()); }
        });
        c.close();
        step(mode + " options", () -> {
            Connection o = connect(url, "options", "-c statement_timeout=7s -c search_path=public", "currentSchema", "public",
                "assumeMinServerVersion", "12", "readOnly", "true", "reWriteBatchedInserts", "true");
            print(o.createStatement().executeQuery("SHOW statement_timeout"));
            print(o.createStatement().executeQuery("SHOW application_name"));
            o.close();
        });
        step(mode + " two-phase", () -> {
            var source = new org.postgresql.xa.PGXADataSource();
            source.setUrl(url);
            source.setUser(System.getenv("PGUSER"));
            source.setPassword(System.getenv("PGPASSWORD"));
            var xa = source.getXAConnection();
            javax.transaction.xa.Xid xid = new javax.transaction.xa.Xid() {
                public int getFormatId() { return 7; }
                public byte[] getGlobalTransactionId() { return (mode + "1").getBytes(); }
                public byte[] getBranchQualifier() { return "b".getBytes(); }
            };
            xa.getXAResource().start(xid, 0);
            xa.getConnection().createStatement().executeUpdate("UPDATE t SET name = 'two-phase' WHERE id = 9");
            xa.getXAResource().end(xid, javax.transaction.xa.XAResource.TMSUCCESS);
            System.out.println(xa.getXAResource().prepare(xid));
            xa.getXAResource().commit(xid, false);
            xa.close();
        });
    }
}
