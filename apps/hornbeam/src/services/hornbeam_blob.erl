%% SPDX-License-Identifier: Apache-2.0

%% @private Terms that Python encoded: decoded only where Erlang code needs them. Pure.
%%
%% A blob is the version byte 131 and one term. It comes from applications, so decoding makes no
%% atom and inflates nothing. Python's atoms have names of their own making; the error says which
%% one the node does not know.
-module(hornbeam_blob).

%% API
-export([encode/1]).
-export([decode/1]).
-export([decode_list/1]).
-export([decode_map/1]).

-export_type([blob/0, error/0, bad_arguments/0]).

-type blob() :: binary().
%% External Term Format with its version byte.

-type error() ::
    {unknown_atom, #{text := binary()}}
  | {undecodable, #{first_bytes := binary()}}.

-type bad_arguments() :: {bad_arguments, #{expected := binary()}}.
%% It is a term, but not of the kind that arguments are.

-define(VERSION, 131).
-define(COMPRESSED, 80).
-define(SHOWN_BYTES, 64).

-spec encode(term()) -> blob().
encode(Term) ->
    term_to_binary(Term).

-spec decode(blob()) -> {ok, term()} | {error, error()}.
decode(<<?VERSION, ?COMPRESSED, _/binary>> = Blob) ->
    undecodable(Blob);
decode(Blob) ->
    try binary_to_term(Blob, [safe, used]) of
        {Term, Used} when Used =:= byte_size(Blob) -> {ok, Term};
        {_, _} -> undecodable(Blob)
    catch
        error:badarg -> explain(Blob)
    end.

%% @doc The arguments of a call.
-spec decode_list(blob()) -> {ok, list()} | {error, error() | bad_arguments()}.
decode_list(Blob) ->
    decode_as(Blob, fun is_proper_list/1, <<"a list">>).

%% @doc The keyword arguments of a call.
-spec decode_map(blob()) -> {ok, map()} | {error, error() | bad_arguments()}.
decode_map(Blob) ->
    decode_as(Blob, fun is_map/1, <<"a map">>).

%%% Internal

decode_as(Blob, IsRight, Expected) ->
    case decode(Blob) of
        {ok, Term} ->
            case IsRight(Term) of
                true -> {ok, Term};
                false -> {error, {bad_arguments, #{expected => Expected}}}
            end;
        {error, _} = Error ->
            Error
    end.

is_proper_list([_ | Rest]) -> is_proper_list(Rest);
is_proper_list(Term) -> Term =:= [].

%% `binary_to_term/2' gives one reason for all faults.
explain(<<?VERSION, Encoded/binary>> = Blob) ->
    try find_unknown_atom(Encoded, 1) of
        {unknown_atom, Name} -> {error, {unknown_atom, #{text => Name}}};
        _Rest -> undecodable(Blob)
    catch
        error:function_clause -> undecodable(Blob)
    end;
explain(Blob) ->
    undecodable(Blob).

undecodable(Blob) ->
    FirstBytes = binary:part(Blob, 0, min(byte_size(Blob), ?SHOWN_BYTES)),
    {error, {undecodable, #{first_bytes => FirstBytes}}}.

%% Goes over `Count' terms; gives the bytes after them, or the first atom that is not there.
find_unknown_atom(Rest, 0) ->
    Rest;
find_unknown_atom(Bytes, Count) ->
    case skip(Bytes) of
        {atom, Name, Rest} ->
            case is_atom_known(Name) of
                true -> find_unknown_atom(Rest, Count - 1);
                false -> {unknown_atom, Name}
            end;
        {terms, More, Rest} ->
            find_unknown_atom(Rest, Count - 1 + More)
    end.

%% What one tag stands for: an atom, or so many terms that follow it. The tags are those that
%% Python's codec writes, and those of pids and references that it gives back.
skip(<<119, Size, Name:Size/binary, Rest/binary>>) -> {atom, Name, Rest};
skip(<<118, Size:16, Name:Size/binary, Rest/binary>>) -> {atom, Name, Rest};
skip(<<97, _, Rest/binary>>) -> {terms, 0, Rest};
skip(<<98, _:32, Rest/binary>>) -> {terms, 0, Rest};
skip(<<70, _:64, Rest/binary>>) -> {terms, 0, Rest};
skip(<<110, Size, _, _:Size/binary, Rest/binary>>) -> {terms, 0, Rest};
skip(<<111, Size:32, _, _:Size/binary, Rest/binary>>) -> {terms, 0, Rest};
skip(<<109, Size:32, _:Size/binary, Rest/binary>>) -> {terms, 0, Rest};
skip(<<77, Size:32, _, _:Size/binary, Rest/binary>>) -> {terms, 0, Rest};
skip(<<107, Size:16, _:Size/binary, Rest/binary>>) -> {terms, 0, Rest};
skip(<<104, Arity, Rest/binary>>) -> {terms, Arity, Rest};
skip(<<105, Arity:32, Rest/binary>>) -> {terms, Arity, Rest};
skip(<<106, Rest/binary>>) -> {terms, 0, Rest};
skip(<<108, Length:32, Rest/binary>>) -> {terms, Length + 1, Rest};
skip(<<116, Size:32, Rest/binary>>) -> {terms, 2 * Size, Rest}.

is_atom_known(Name) ->
    try binary_to_existing_atom(Name) of
        _ -> true
    catch
        error:_ -> false
    end.
