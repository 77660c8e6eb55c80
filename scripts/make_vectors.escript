#!/usr/bin/env escript
%%! +fnu
%% SPDX-License-Identifier: Apache-2.0
%%
%% Makes the golden vectors of the codec and of the wire protocol.
%%
%%   scripts/make_vectors.escript [FOLDER]
%%
%% FOLDER is tests/vectors unless given; tests/vectors/README.md tells what is in it. The same
%% bytes come out on every OTP from 25 on (compressed terms depend on the version of zlib).
-mode(compile).

%% Of OTP 26 and later these are the default; they make OTP 25 do the same.
-define(OPTIONS, [deterministic, {minor_version, 2}]).

main([]) ->
    Scripts = filename:dirname(filename:absname(escript:script_name())),
    main([filename:join([filename:dirname(Scripts), "tests", "vectors"])]);
main([Folder]) ->
    Packets = filename:join(Folder, "packets"),
    ok = filelib:ensure_path(Packets),
    write_terms(filename:join(Folder, "terms.json")),
    write_packets(Folder, "protocol", [protocol(Packet) || Packet <- packets()]),
    write_packets(Folder, "malformed", malformed());
main(_) ->
    io:format(standard_error, "usage: make_vectors.escript [FOLDER]~n", []),
    halt(2).

%% Terms of every tag.

write_terms(File) ->
    Vectors = [vector(Vector) || Vector <- made() ++ given()],
    Lines = [json({map, [{name, Name}, {term, text(Term)}, {hex, binary:encode_hex(Bytes)}]})
             || {Name, Term, Bytes} <- Vectors],
    ok = file:write_file(File, ["[\n", lists:join(",\n", Lines), "\n]\n"]).

vector({Name, Term}) ->
    vector({Name, Term, ?OPTIONS});
vector({Name, Term, Options}) when is_list(Options) ->
    {Name, Term, term_to_binary(Term, Options)};
vector({Name, Term, Encoded}) ->
    %% Bytes that this OTP reads, but would write in another way.
    Bytes = <<131, Encoded/binary>>,
    case binary_to_term(Bytes) of
        Term -> {Name, Term, Bytes};
        Other -> error({not_the_term, Name, Other, Term})
    end.

%% What the runtime encodes.
made() ->
    [{int_zero, 0}, {int_255, 255}, {int_256, 256}, {int_minus_one, -1},
     {int32_max, 16#7fffffff}, {int32_min, -16#80000000},
     {int32_max_plus_one, 16#80000000}, {int32_min_minus_one, -16#80000001},
     {int64_max, 16#7fffffffffffffff}, {int64_min, -16#8000000000000000},
     {int64_min_minus_one, -16#8000000000000001},
     {int_2_to_64, 1 bsl 64}, {int_minus_2_to_64, -(1 bsl 64)},
     {big_255_bytes, (1 bsl 2040) - 1}, {big_256_bytes, 1 bsl 2040},
     {big_256_bytes_negative, -(1 bsl 2040)},
     {float_zero, 0.0}, {float_minus_zero, -0.0}, {float_one_half, 0.5},
     {float_large, 1.7976931348623157e308}, {float_tiny, 5.0e-324},
     {float_text, 1.5, [{minor_version, 0}]},
     {float_text_negative, -2.5e-7, [{minor_version, 0}]},
     {atom_ok, ok}, {atom_empty, ''}, {atom_undefined, undefined}, {atom_nil, nil},
     {atom_true, true}, {atom_false, false}, {atom_umlaut, 'größe'},
     {atom_japanese, '日本'}, {atom_255_letters, wide_atom($x)},
     {atom_255_wide_letters, wide_atom(16#65e5)},
     {atom_latin1_tag, 'größe', [{minor_version, 1}]},
     {list_empty, []}, {list_bytes, [1, 2, 3]}, {list_integers, [256, 1]},
     {list_text, "abc"}, {list_nested, [[], [[]], [a, [b]]]},
     {list_improper, [1 | 2]}, {list_improper_longer, [a, <<"b">> | {c}]},
     {tuple_empty, {}}, {tuple_one, {1}}, {tuple_255, erlang:make_tuple(255, a)},
     {tuple_256, erlang:make_tuple(256, a)},
     {map_empty, #{}}, {map_mixed_keys, #{a => 1, 2 => <<"two">>, <<"k">> => [x]}},
     {map_of_40, maps:from_list([{N, N * N} || N <- lists:seq(1, 40)])},
     {map_key_list, #{[a, b] => 1}}, {map_key_text, #{"abc" => 1}}, {map_key_nil, #{[] => 1}},
     {map_key_map, #{#{a => [1, 300]} => 1}}, {map_key_tuple, #{{1, [x], #{}} => 1}},
     {map_key_improper, #{[a | b] => 1}},
     {binary_empty, <<>>}, {binary_ascii, <<"abc">>}, {binary_utf8, <<"größe"/utf8>>},
     {binary_not_utf8, <<255, 254, 0>>}, {binary_nul, <<0>>},
     {bits_3, <<5:3>>}, {bits_17, <<"ab", 1:1>>},
     {fun_external, fun lists:map/2},
     {compressed, lists:duplicate(50, {<<"compress me">>, 1.5}), [compressed | ?OPTIONS]},
     {nested, #{<<"items">> => [#{<<"price">> => 1.25, <<"tags">> => {<<"a">>, undefined}}]}}].

%% What older nodes send, other encoders write, or Python writes: bytes without the version.
given() ->
    [{bytes_of_python, <<"abc">>, <<77, 3:32, 8, "abc">>},
     {bytes_of_python_empty, <<>>, <<77, 0:32, 0>>},
     {atom_ext, ok, <<100, 2:16, "ok">>},
     {small_atom_ext, ok, <<115, 2, "ok">>},
     {atom_utf8_ext, ok, <<118, 2:16, "ok">>},
     {small_big_without_bytes, 0, <<110, 0, 0>>},
     {small_big_with_zeros, 5, <<110, 3, 0, 5, 0, 0>>},
     {small_big_minus_zero, 0, <<110, 1, 1, 0>>},
     {large_big_of_one_byte, -7, <<111, 1:32, 1, 7>>},
     {list_ext_empty, [], <<108, 0:32, 106>>},
     {list_ext_of_bytes, [1], <<108, 1:32, 97, 1, 106>>},
     {large_tuple_of_one, {1}, <<105, 1:32, 97, 1>>},
     {string_empty, [], <<107, 0:16>>},
     {float_text_short, 2.5, <<99, "2.5", 0:(28 * 8)>>}
     | [{Name, binary_to_term(<<131, Bytes/binary>>), Bytes} || {Name, Bytes} <- opaque()]].

%% Terms that have no literal.
opaque() ->
    Node = <<119, 6, "n@host">>,
    LatinNode = <<100, 6:16, "n@host">>,
    Fun = <<2, 1:128, 7:32, 1:32, 119, 1, "m", 97, 7, 98, 123456:32,
            88, Node/binary, 83:32, 0:32, 5:32, 104, 1, 97, 1>>,
    [{pid, <<88, Node/binary, 83:32, 1:32, 1577836800:32>>},
     {pid_of_otp_25, <<88, LatinNode/binary, 83:32, 1:32, 1577836800:32>>},
     {pid_ext, <<103, LatinNode/binary, 83:32, 1:32, 3>>},
     {reference, <<90, 3:16, Node/binary, 1577836800:32, 1:32, 2:32, 3:32>>},
     {reference_of_5_words,
      <<90, 5:16, Node/binary, 1577836800:32, 1:32, 2:32, 3:32, 4:32, 5:32>>},
     {new_reference_ext, <<114, 3:16, LatinNode/binary, 2, 1:32, 2:32, 3:32>>},
     {reference_ext, <<101, LatinNode/binary, 9:32, 2>>},
     {port, <<89, Node/binary, 5:32, 1577836800:32>>},
     {port_ext, <<102, LatinNode/binary, 5:32, 2>>},
     {v4_port, <<120, Node/binary, 16#100000005:64, 1577836800:32>>},
     {fun_local, <<112, (byte_size(Fun) + 4):32, Fun/binary>>}].

wide_atom(Letter) ->
    list_to_atom(lists:duplicate(255, Letter)).

%% Packets of the wire protocol, as docs/protocol.md describes them.

write_packets(Folder, Index, Packets) ->
    Entries = [write_packet(Folder, Packet) || Packet <- Packets],
    Terms = [io_lib:format("~tp.~n", [Entry]) || Entry <- Entries],
    Jsons = [json(entry(Entry)) || Entry <- Entries],
    Head = "%% coding: utf-8\n"
           "%% Made by scripts/make_vectors.escript; README.md tells what it is.\n",
    ok = file:write_file(filename:join(Folder, Index ++ ".term"),
                         unicode:characters_to_binary([Head, Terms])),
    ok = file:write_file(filename:join(Folder, Index ++ ".json"),
                         ["[\n", lists:join(",\n", Jsons), "\n]\n"]).

write_packet(Folder, {Name, From, About, Packet}) ->
    File = filename:join("packets", atom_to_list(Name) ++ ".bin"),
    ok = file:write_file(filename:join(Folder, File), Packet),
    {Name, From, File, About}.

entry({Name, From, File, {messages, Messages}}) ->
    {map, [{name, Name}, {from, From}, {file, list_to_binary(File)},
           {messages, {array, [tagged(Message) || Message <- Messages]}}]};
entry({Name, From, File, {why, Why}}) ->
    {map, [{name, Name}, {from, From}, {file, list_to_binary(File)}, {why, Why}]}.

protocol({Name, From, Messages}) ->
    {Name, From, {messages, Messages}, term_to_binary(Messages, ?OPTIONS)}.

packets() ->
    life_packets() ++ request_packets() ++ response_packets() ++ websocket_packets() ++
        call_packets() ++ state_packets() ++ topic_packets() ++ function_packets() ++
        hook_packets() ++ reply_packets().

life_packets() ->
    [{empty, node, []},
     {configure, node,
      [{configure, #{app => <<"app:application">>, worker_class => auto,
                     pythonpath => [<<".">>, <<"/srv/größe"/utf8>>], chdir => undefined,
                     lifespan => on, lifespan_timeout => 30000, root_path => <<>>,
                     loop => asyncio, threads => 8, server => <<"default">>, worker_id => 1,
                     window => 65536, send_timeout => 30000, websocket_drain => close}}]},
     {configure_for_ever, node,
      [{configure, #{app => <<"shop.main:create.app">>, worker_class => asgi,
                     pythonpath => [], chdir => <<"/srv/shop">>, lifespan => auto,
                     lifespan_timeout => infinity, root_path => <<"/shop">>, loop => uvloop,
                     threads => 1, server => <<"shop">>, worker_id => 12, window => 1,
                     send_timeout => infinity, websocket_drain => keep}}]},
     {ready, worker,
      [{ready, #{os_pid => 4242, python => <<"3.11.7">>, codec => c, loop => asyncio,
                 worker_class => asgi, lifespan => started}}]},
     {failed, worker,
      [{failed, app_import_failed,
        #{app => <<"app:application">>, message => <<"No module named 'app'">>,
          traceback => <<"Traceback (most recent call last):\n  ...\n">>}}]},
     {ping, node, [{ping, 1}]},
     {pong, worker, [{pong, 1}]},
     {probe, node, [{ping, 0}]},
     {revoke, node, [{revoke}]},
     {inspect, node, [{inspect}]},
     {blocked, worker,
      [{blocked, #{location => <<"/srv/shop/views.py:12 in report">>,
                   stack => <<"  File \"/srv/shop/views.py\", line 12, in report\n    time.sleep(5)">>,
                   requests => [{17, <<"GET /report">>}, {18, <<"GET /größe"/utf8>>}]}}]},
     {blocked_without_requests, worker,
      [{blocked, #{location => <<"a.py:1 in f">>, stack => <<>>, requests => []}}]},
     {ping_large, node, [{ping, 1 bsl 40}]},
     {shutdown, node, [{shutdown, 30000}]},
     {shutdown_for_ever, node, [{shutdown, infinity}]},
     {stopped, worker, [{stopped, #{lifespan => complete}}]},
     {stopped_failed, worker, [{stopped, #{lifespan => failed, message => <<"no database">>}}]},
     {log, worker, [{log, error, #{message => <<"it broke">>, request_id => 17}}]},
     {log_without_request, worker, [{log, info, #{message => <<"größe"/utf8>>}}]}].

request_packets() ->
    [{request_get, node, [{request, 17, scope(<<"GET">>, headers()), <<>>, false}]},
     {request_tls, node, [{request, 21, tls_scope(), <<>>, false}]},
     {request_post, node,
      [{request, 18, scope(<<"POST">>, [{<<"content-length">>, <<"11">>}]), <<"hello">>, true},
       {body, 18, <<" world">>, false}]},
     {request_unix, node,
      [{request, 19,
        {<<"GET">>, <<"https">>, <<"2">>, <<"/%C3%A9">>, <<>>, [], undefined,
         {<<"/run/hornbeam.sock">>, undefined}, #{}}, <<>>, false}]},
     {request_prefix, node,
      [{request, 21,
        {<<"GET">>, <<"https">>, <<"1.1">>, <<"/items/3">>, <<>>,
         [{<<"x-forwarded-prefix">>, <<"/shop">>}], {<<"192.0.2.7">>, 0},
         {<<"127.0.0.1">>, 8000}, #{root_path => <<"/shop">>}}, <<>>, false}]},
     {request_bytes, node,
      [{request, 1 bsl 33, scope(<<"PUT">>, [{<<"x-latin1">>, <<233>>}]), <<0, 255, 131>>,
        false}]},
     {ack, node, [{ack, 17, 65536}]},
     {opened, node, [{opened, 17}]},
     {kept, node, [{kept, 17}]},
     {refused, node, [{refused, 17, enoent, 0}, {refused, 18, size, 1 bsl 40}]},
     {disconnect, node, [{disconnect, 17}]},
     {cancel, node, [{cancel, 17}]},
     {batch_node, node,
      [{request, 20, scope(<<"GET">>, []), <<>>, false}, {ack, 17, 100}, {disconnect, 16},
       {ping, 7}]}].

response_packets() ->
    Headers = [{<<"content-type">>, <<"text/plain">>}, {<<"set-cookie">>, <<"a=1">>},
               {<<"set-cookie">>, <<"b=2">>}],
    [{response, worker, [{response, 17, 200, Headers, <<"Hello">>}, {done, 17}]},
     {response_empty, worker, [{response, 17, 204, [], <<>>}]},
     {start, worker, [{start, 17, 200, Headers, <<>>}]},
     {data, worker, [{data, 17, <<0, 1, 2, 255>>}]},
     {last, worker, [{last, 17, <<>>}]},
     {file, worker, [{file, 17, {200, Headers}, <<"/srv/größe"/utf8>>, 0, undefined}]},
     {file_after_start, worker, [{file, 17, undefined, <<"/srv/a">>, 5, 1 bsl 40}]},
     {trailers, worker, [{trailers, 17, [{<<"x-checksum">>, <<"abc">>}]}]},
     {inform, worker, [{inform, 17, 103, [{<<"link">>, <<"</a.css>; rel=preload">>}]}]},
     {abort, worker, [{abort, 17}]},
     {borrow, worker, [{borrow, 17}]},
     {written, worker, [{written, 17, 1 bsl 20}]},
     {credit, worker, [{credit, 18, 16384}]},
     {waiting, worker, [{waiting, 18, 4096}]},
     {done, worker, [{done, 17}]},
     {returned, worker, [{returned, 18, <<"hello world">>}, {returned, 20, <<>>}]},
     {batch_worker, worker,
      [{start, 17, 200, [], <<"a">>}, {data, 17, <<"b">>}, {last, 17, <<"c">>}, {done, 17},
       {waiting, 18, 4096}, {credit, 18, 5}, {pong, 7}]}].

websocket_packets() ->
    Scope = setelement(2, scope(<<"GET">>, headers()), <<"wss">>),
    [{websocket, node, [{websocket, 30, Scope, [<<"graphql-ws">>, <<"chat.v2">>]}]},
     {websocket_plain, node, [{websocket, 31, scope(<<"GET">>, []), []}]},
     {message_text, node, [{message, 30, text, <<"größe"/utf8>>}]},
     {message_binary, node, [{message, 30, binary, <<0, 255, 131>>}, {ack, 30, 64}]},
     {closed, node, [{closed, 30, 1001, <<"später"/utf8>>}]},
     {ending, node, [{ending, 30, 1002, <<"an unmasked frame">>}]},
     {closed_without_a_word, node, [{closed, 30, 1006, <<>>}]},
     {accept, worker, [{accept, 30, <<"chat.v2">>, [{<<"set-cookie">>, <<"a=1">>}]}]},
     {accept_plain, worker, [{accept, 31, undefined, []}]},
     {say_text, worker, [{message, 30, text, <<"größe"/utf8>>}]},
     {say_binary, worker, [{message, 30, binary, <<>>}, {credit, 30, 16384}]},
     {close, worker, [{close, 30, 4999, <<"genug"/utf8>>}, {done, 30}]},
     {attach, worker,
      [{call, 8, attach, {30, <<"room:*">>, close, 1000}},
       {call, 9, attach, {30, <<"news:#">>, drop_oldest, 1}},
       {call, 10, detach, {30, <<"room:*">>}}]},
     {reply_not_open, node, [{reply, 8, error, {not_open, #{request_id => 30}}}]}].

call_packets() ->
    Text = text_blob(),
    Bytes = bytes_blob(),
    [{call_state_get, worker, [{call, 1, state_get, {<<"key">>}}]},
     {call_state_set, worker, [{call, 2, state_set, {<<"key">>, Text, undefined}}]},
     {call_state_set_ttl, worker, [{call, 3, state_set, {{<<"key">>, 1}, Bytes, 1500}}]},
     {call_state_incr, worker, [{call, 4, state_incr, {<<"hits">>, 1}}]},
     {call_state_delete, worker, [{call, 5, state_delete, {<<"key">>}}]},
     {cast_state_set, worker, [{cast, state_set, {<<"key">>, Text, undefined}}]},
     {reply_blob, node, [{reply, 1, ok, Text}]},
     {reply_nothing, node, [{reply, 1, ok, undefined}]},
     {reply_true, node, [{reply, 2, ok, true}]},
     {reply_integer, node, [{reply, 4, ok, 1 bsl 70}]},
     {reply_error, node, [{reply, 4, error, {not_an_integer, #{}}}]},
     {calls_in_a_batch, worker,
      [{call, 6, state_get, {<<"a">>}}, {call, 7, state_get, {<<"b">>}}]}].

%% Blobs as Python writes them: a str, bytes.
text_blob() -> <<131, 109, 3:32, "abc">>.

bytes_blob() -> <<131, 77, 3:32, 8, "abc">>.

%% A list and a dict, as arguments and keyword arguments have them.
args_blob() -> term_to_binary([1, <<"abc">>], ?OPTIONS).

kwargs_blob() -> term_to_binary(#{<<"key">> => 1.5}, ?OPTIONS).

%% Keys that travel as they are, and one that does not: a tuple, encoded.
keys() ->
    [<<"key">>, 7, 1 bsl 70, true, false, undefined, {key, term_to_binary({<<"a">>, 1}, ?OPTIONS)}].

state_packets() ->
    Text = text_blob(),
    Bytes = bytes_blob(),
    [{call_state_keys_of_each_kind, worker,
      [{call, 10 + N, state_get, {Key}} || {N, Key} <- lists:zip(lists:seq(1, 7), keys())]},
     {call_state_get_multi, worker, [{call, 20, state_get_multi, {keys()}}]},
     {call_state_get_multi_none, worker, [{call, 21, state_get_multi, {[]}}]},
     {call_state_set_multi, worker,
      [{call, 22, state_set_multi, {[{<<"a">>, Text}, {7, Bytes}], undefined}},
       {call, 23, state_set_multi, {[{<<"a">>, Text}], 1500}}]},
     {call_state_keys, worker,
      [{call, 24, state_keys, {undefined}}, {call, 25, state_keys, {<<"user:">>}}]},
     {call_state_add, worker,
      [{call, 26, state_add, {<<"key">>, Text, undefined}},
       {call, 27, state_add, {<<"key">>, Bytes, 1}}]},
     {call_state_cas, worker, [{call, 28, state_cas, {<<"key">>, Text, Bytes}}]},
     {call_state_pop, worker, [{call, 29, state_pop, {<<"key">>}}]},
     {call_state_incr_large, worker, [{call, 30, state_incr, {<<"key">>, -(1 bsl 70)}}]},
     {casts_of_state, worker,
      [{cast, state_delete, {<<"key">>}}, {cast, state_incr, {<<"key">>, -1}}]}].

topic_packets() ->
    Text = text_blob(),
    [{call_publish, worker, [{call, 31, publish, {<<"room:7">>, Text}}]},
     {cast_publish, worker, [{cast, publish, {<<"room:7">>, bytes_blob()}}]},
     {call_subscribe, worker,
      [{call, 32, subscribe, {<<"room:*">>}}, {call, 33, unsubscribe, {<<"room:*">>}}]},
     {publish, node, [{publish, <<"room:7">>, Text}]},
     {publish_empty_topic, node, [{publish, <<>>, bytes_blob()}]},
     {dropped, node, [{dropped, 1}, {dropped, 1 bsl 40}]}].

function_packets() ->
    Args = args_blob(),
    Node = <<"shop@127.0.0.1">>,
    [{call_call, worker,
      [{call, 34, call, {<<"price">>, Args, 5000}},
       {call, 35, call, {<<"price">>, Args, infinity}}]},
     {cast_cast, worker, [{cast, cast, {<<"price">>, Args}}]},
     {call_rpc, worker,
      [{call, 36, rpc_call, {Node, <<"lists">>, <<"seq">>, Args, 5000}},
       {call, 37, rpc_call, {Node, <<"lists">>, <<"seq">>, Args, infinity}},
       {call, 38, rpc_cast, {Node, <<"lists">>, <<"seq">>, Args}}]},
     {call_nodes, worker,
      [{call, 39, nodes, {}}, {call, 40, node, {}}, {call, 41, ping, {Node}},
       {call, 42, connect, {Node}}]}].

hook_packets() ->
    Text = text_blob(),
    Args = args_blob(),
    Kwargs = kwargs_blob(),
    Facts = #{class => <<"ValueError">>, reason => <<"größe"/utf8>>, stack => <<"Traceback ...">>},
    [{call_hook, worker,
      [{call, 43, register_hook, {<<"shop/price">>}},
       {call, 44, unregister_hook, {<<"shop/price">>}}]},
     {call_execute, worker,
      [{call, 45, execute, {<<"shop">>, <<"price">>, Args, Kwargs, 5000}},
       {call, 46, execute, {<<"shop">>, undefined, Args, Kwargs, infinity}}]},
     {call_stream, worker, [{call, 47, stream, {<<"shop">>, <<"all">>, Args, Kwargs, 5000}}]},
     {cast_stream, worker, [{cast, stream_credit, {3, 16}}, {cast, stream_cancel, {3}}]},
     {invoke, node,
      [{invoke, 5, <<"shop">>, <<"price">>, Args, Kwargs, call},
       {invoke, 6, <<"shop">>, undefined, Args, Kwargs, stream}]},
     {invoke_credit, node, [{invoke_credit, 6, 16}]},
     {invoke_cancel, node, [{invoke_cancel, 6}]},
     {produce, worker, [{produce, 6, Text}, {produce, 6, bytes_blob()}]},
     {result, worker, [{result, 5, ok, Text}]},
     {result_error, worker, [{result, 5, error, Facts}]},
     {item, node, [{item, 3, Text}]},
     {stream_end, node, [{stream_end, 3}]},
     {stream_error, node,
      [{stream_error, 3, {remote_error, Facts}},
       {stream_error, 4, {timeout, #{timeout_ms => 5000}}},
       {stream_error, 5, {service_down, #{path => <<"shop">>}}}]}].

%% Every form of a value, and every error with its facts.
reply_packets() ->
    Text = text_blob(),
    [{reply_false, node, [{reply, 2, ok, false}]},
     {reply_blobs, node, [{reply, 20, ok, [Text, undefined, bytes_blob()]}]},
     {reply_no_blobs, node, [{reply, 21, ok, []}]},
     {reply_count, node, [{reply, 31, ok, 3}]},
     {reply_names, node,
      [{reply, 39, ok, [<<"a@host">>, <<"b@host">>]}, {reply, 40, ok, <<"n@host">>}]},
     {reply_errors, node, [{reply, 100 + N, error, Error}
                           || {N, Error} <- lists:zip(lists:seq(1, length(errors())), errors())]}].

errors() ->
    [{state_full, #{limit_bytes => 1048576}},
     {invalid_pattern, #{pattern => <<"#:a">>}},
     {invalid_topic, #{topic => <<"a:*">>}},
     {timeout, #{timeout_ms => 5000}},
     {function_not_found, #{name => <<"pric">>, near => [<<"price">>]}},
     {remote_error, #{class => <<"error">>, reason => <<"badarg">>, stack => <<>>}},
     {bad_arguments, #{expected => <<"a list">>}},
     {node_down, #{node => <<"shop@127.0.0.1">>}},
     {not_allowed, #{module => <<"os">>, function => <<"cmd">>}},
     {unknown_atom, #{text => <<"nosuch">>}},
     {undecodable, #{first_bytes => <<131, 200>>}},
     {unknown_function, #{function => state_get, arity => 3}},
     {service_not_found, #{path => <<"shp">>, near => [<<"shop">>]}},
     {service_down, #{path => <<"shop">>}}].

tls_scope() ->
    Http = setelement(2, scope(<<"GET">>, []), <<"https">>),
    Certificate = <<"-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n">>,
    Tls = {16#0304, 16#1301, Certificate, [Certificate], <<"CN=größe"/utf8>>},
    setelement(9, Http, #{tls => Tls}).

scope(Method, Headers) ->
    {Method, <<"http">>, <<"1.1">>, <<"/items/3">>, <<"q=1">>, Headers,
     {<<"127.0.0.1">>, 51234}, {<<"127.0.0.1">>, 8000}, #{}}.

headers() ->
    [{<<"host">>, <<"127.0.0.1:8000">>}, {<<"user-agent">>, <<"curl/7.88.1">>},
     {<<"accept">>, <<"*/*">>}, {<<"accept-encoding">>, <<"gzip, deflate, br">>},
     {<<"accept-language">>, <<"en-GB,en;q=0.9">>}, {<<"cookie">>, <<"a=1; b=2">>},
     {<<"cache-control">>, <<"no-cache">>}, {<<"x-request-id">>, <<"f2e9c0a1">>}].

%% Packets that either side refuses.
malformed() ->
    Packet = term_to_binary([{ping, 1}], ?OPTIONS),
    [{bad_nothing, any, {why, <<"no bytes">>}, <<>>},
     {bad_version, any, {why, <<"another version byte">>}, <<130, 106>>},
     {bad_truncated, any, {why, <<"the last byte is missing">>},
      binary:part(Packet, 0, byte_size(Packet) - 1)},
     {bad_trailing, any, {why, <<"a byte follows the term">>}, <<Packet/binary, 0>>},
     {bad_count, any, {why, <<"more messages promised than bytes are there">>},
      <<131, 108, 16#ffffffff:32, 106>>},
     {bad_tag, any, {why, <<"a tag that is none">>}, <<131, 108, 1:32, 200, 106>>},
     {bad_not_a_list, any, {why, <<"a message that is not in a list">>},
      term_to_binary({ping, 1}, ?OPTIONS)},
     {bad_improper_list, any, {why, <<"an improper list">>},
      term_to_binary([{ping, 1} | {ping, 2}], ?OPTIONS)}].

%% Text.

%% A foreign node's number, in what pids, references and ports print as, is not the same every time.
text(Term) ->
    Text = unicode:characters_to_binary(io_lib:format("~tw", [Term])),
    re:replace(Text, "<[0-9]+\\.", "<node.", [global, {return, binary}, unicode]).

%% JSON with tags for what it has no type for.
tagged(Atom) when Atom =:= true; Atom =:= false; Atom =:= undefined -> Atom;
tagged(Atom) when is_atom(Atom) -> {map, [{atom, atom_to_binary(Atom)}]};
tagged(Integer) when is_integer(Integer) -> Integer;
tagged(Binary) when is_binary(Binary) ->
    case lists:all(fun(Byte) -> Byte >= $\s andalso Byte < 127 end, binary_to_list(Binary)) of
        true -> {map, [{binary, Binary}]};
        false -> {map, [{hex, binary:encode_hex(Binary)}]}
    end;
tagged(List) when is_list(List) -> {array, [tagged(Element) || Element <- List]};
tagged(Tuple) when is_tuple(Tuple) ->
    {map, [{tuple, tagged(tuple_to_list(Tuple))}]};
tagged(Map) when is_map(Map) ->
    Pairs = [{array, [tagged(Key), tagged(Value)]} || {Key, Value} <- lists:sort(maps:to_list(Map))],
    {map, [{map, {array, Pairs}}]}.

json(undefined) -> <<"null">>;
json(Integer) when is_integer(Integer) -> integer_to_binary(Integer);
json(Atom) when Atom =:= true; Atom =:= false -> atom_to_binary(Atom);
json(Atom) when is_atom(Atom) -> json(atom_to_binary(Atom));
json(Binary) when is_binary(Binary) -> [$", [escape(Byte) || <<Byte>> <= Binary], $"];
json({array, Elements}) -> [$[, lists:join(", ", [json(Element) || Element <- Elements]), $]];
json({map, Pairs}) ->
    [${, lists:join(", ", [[json(Key), ": ", json(Value)] || {Key, Value} <- Pairs]), $}].

escape($") -> <<"\\\"">>;
escape($\\) -> <<"\\\\">>;
escape(Byte) when Byte < $\s -> io_lib:format("\\u~4.16.0b", [Byte]);
escape(Byte) -> Byte.
