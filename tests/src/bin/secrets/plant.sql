-- Every value planted, with the shape in which it is looked for: `w` any six characters of it, `n` ten digits or all of it,
-- and how its number is written in binary.
SELECT 'w ' || v FROM (
    SELECT unnest(array[s_text, s_varchar, s_char, convert_from(s_bytea, 'UTF8'), s_json ->> 'code', s_json #>> '{deep,code}', s_jsonb ->> 'code', s_jsonb #>> '{deep,code}',
        s_array[1], s_array[2], (s_comp).code, lower(s_range), s_domain, s_enum::text]) AS v FROM vault
    UNION ALL SELECT s_text FROM parts UNION ALL SELECT s_text FROM parent UNION ALL SELECT s_jsonb ->> 'code' FROM parent UNION ALL SELECT s_more FROM child
    UNION ALL SELECT s_text FROM hashed UNION ALL SELECT s_array[1] FROM hashed UNION ALL SELECT s_text FROM nulled
    UNION ALL SELECT left(s_text, 14) FROM partly UNION ALL SELECT left(s_domain, 14) FROM partly UNION ALL SELECT s_name FROM other.pair) w
UNION ALL SELECT 'n ' || v FROM (
    SELECT unnest(array[s_int::text, s_big::text, s_num::text]) AS v FROM vault UNION ALL SELECT s_big::text FROM parts UNION ALL SELECT s_int::text FROM nulled) n
UNION ALL SELECT 'b 00000004' || encode(int4send(v), 'hex') FROM (SELECT s_int AS v FROM vault UNION ALL SELECT s_int FROM nulled) b
UNION ALL SELECT 'b ' || encode(int8send(v), 'hex') FROM (SELECT s_big AS v FROM vault UNION ALL SELECT s_big FROM parts) b
UNION ALL SELECT 'b ' || substr(encode(numeric_send(s_num), 'hex'), 17) FROM vault
